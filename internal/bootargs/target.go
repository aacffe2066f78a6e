package bootargs

import (
	"fmt"
	"strings"
)

// SignedConsole is the one phase.* word of a release's command line that the boot client obeys:
// it keeps the boot kernel's consoles out of the target's command line.
const SignedConsole = "phase.console=signed"

// Unread returns a line for each phase.* word of a release's command line that neither the boot
// client nor an initramfs of ours would take, with the reason. The target may be anybody's system:
// other words, such as root=, are its own. Words after a bare -- belong to init.
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
