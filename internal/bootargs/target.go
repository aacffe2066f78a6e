package bootargs

import (
	"fmt"
	"strings"
)

// SignedConsole is the only phase.* argument of a release's command line that the boot client
// interprets: it adds no console= of the boot kernel to the target's command line.
const SignedConsole = "phase.console=signed"

// Unread returns a line with a reason for each phase.* argument of a release's command line that has
// no effect, neither in the boot client nor in an initramfs of Phase Boot. Other arguments, such as
// root=, are for the target's own system; arguments after a bare -- are for init.
func Unread(cmdline string) (lines []string) {
	for _, word := range SplitWords(cmdline) {
		if word == "--" {
			return lines
		}
		name, _, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(strings.ToLower(name), "phase.") || word == SignedConsole {
			continue
		}
		if name == "phase.console" {
			lines = append(lines, fmt.Sprintf("%.80q: unknown; write %s", word, SignedConsole))
			continue
		}
		if _, err := Check(`"` + word + `"`); err != nil {
			lines = append(lines, err.Error())
		} else if name != strings.ToLower(name) {
			lines = append(lines, fmt.Sprintf("%.80q: not a phase.* argument of this version", redactAll(word)))
		}
	}
	return lines
}
