// Package printable makes text from outside safe to show on a terminal or a console. Names,
// errors and log lines of peers, servers and metadata pass through Line before they are shown.
//
// It is a leaf and decides nothing about the content. It replaces characters, so the result is
// not the original: programs that must show exact bytes quote them instead (phase-image verify,
// the output of a job).
package printable

import (
	"strconv"
	"strings"
)

// Line returns s as one line: tabs and newlines become spaces, and every other character that is
// not printable (control characters, escapes, direction marks, invalid UTF-8) becomes '?'.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n':
			return ' '
		case !strconv.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
