package bootargs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// maxPanic is the largest number of seconds of panic= that is handed on to the target.
const maxPanic = 3600

// targetValue is the form of a value of phase.target=. It has neither a space nor a quote, so it stays one
// word of the target's command line.
var targetValue = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@=,+-]{0,63}$`)

// takeLocal takes an argument of the kernel that the boot hands on to the target if the release does not
// set it. It reports whether the word is such an argument. A value that is not allowed is not handed on.
func (a *Arguments) takeLocal(word string) bool {
	name, value, _ := strings.Cut(word, "=")
	switch {
	case name == "console":
		a.Console = append(a.Console, value)
	case name == "panic":
		if n, err := strconv.Atoi(value); err == nil && n > 0 && n <= maxPanic && strconv.Itoa(n) == value {
			a.Panic = value
		}
	case word == "nomodeset":
		a.NoModeset = true
	default:
		return false
	}
	return true
}

// checkTarget refuses a value of phase.target= that could be more than one word.
func checkTarget(value string) error {
	if !targetValue.MatchString(value) {
		return fmt.Errorf("phase.target=%.80q: invalid value; use at most 64 letters, digits and ._:/@=,+-", value)
	}
	return nil
}
