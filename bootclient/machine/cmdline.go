package machine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	maxCmdline = 2047 // bytes: COMMAND_LINE_SIZE of x86 and arm64 without the final NUL
	maxConsole = 4    // console= arguments handed to the next kernel
)

// targetCmdline is the next kernel's command line: what was signed, the
// release's version, and the boot kernel's consoles if none was signed.
func targetCmdline(signed, version string, consoles []string) (string, error) {
	if strings.ContainsFunc(signed, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("signed command line: a character outside printable ASCII; sign a new release without it")
	}
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return "", fmt.Errorf("release version %.40q: it cannot stand on a command line; sign a new release", version)
	}
	if strings.Count(signed, `"`)%2 != 0 {
		return "", errors.New("signed command line: a quote is not closed and would swallow what follows; sign a new release")
	}
	words := bootargs.SplitWords(signed)
	hasConsole := slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "console=") })
	extra := ""
	if !hasConsole {
		extra = consoleWords(consoles)
	}
	extra += " phase.release=" + version
	// Words after a bare -- belong to init, not to the kernel.
	kernel, init, found := strings.Cut(signed+" ", " -- ")
	line := strings.TrimSpace(kernel) + extra
	if found {
		line += " -- " + strings.TrimSpace(init)
	}
	line = strings.TrimSpace(line)
	if len(line) > maxCmdline {
		return "", fmt.Errorf("command line: %d bytes, the kernel takes %d; sign a shorter one", len(line), maxCmdline)
	}
	return line, nil
}

// consoleWords copies console arguments that look like one, and nothing else.
func consoleWords(consoles []string) string {
	var b strings.Builder
	n := 0
	for _, v := range consoles {
		bad := strings.ContainsFunc(v, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == ',')
		})
		if v == "" || len(v) > 32 || bad || n == maxConsole {
			continue
		}
		b.WriteString(" console=" + v)
		n++
	}
	return b.String()
}
