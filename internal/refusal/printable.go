package refusal

import (
	"strconv"
	"strings"
)

// Printable makes a text from outside safe for one line of a console: tabs and newlines become
// spaces, and control characters, escapes and direction marks become '?'.
func Printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n', c == '\t':
			return ' '
		case !strconv.IsPrint(c):
			return '?'
		}
		return c
	}, s)
}
