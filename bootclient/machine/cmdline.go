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

	// defaultPanic restarts a machine whose next kernel panics, after a minute in which
	// its last lines can be read. Linux alone would stand still until somebody comes.
	defaultPanic = "panic=60"
)

// targetCmdline is the next kernel's command line: what was signed, the boot
// kernel's consoles that the release does not name, panic=60 unless the release
// sets it, and the release's version. works reports whether the device of a
// console= value is in this machine.
func targetCmdline(signed, version string, consoles []string, works func(device string) bool) (string, error) {
	if strings.ContainsFunc(signed, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("signed command line: a character outside printable ASCII; sign a new release without it")
	}
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return "", fmt.Errorf("release version %.40q: it cannot stand on a command line; sign a new release", version)
	}
	if strings.Count(signed, `"`)%2 != 0 {
		return "", errors.New("signed command line: a quote is not closed and would swallow what follows; sign a new release")
	}
	// Words after a bare -- belong to init, not to the kernel.
	kernel, init, found := strings.Cut(signed+" ", " -- ")
	words := bootargs.SplitWords(kernel)
	before, after := handedConsoles(words, consoles, works)
	line := append(before, strings.TrimSpace(kernel))
	line = append(line, after...)
	if !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "panic=") }) {
		line = append(line, defaultPanic)
	}
	line = append(line, "phase.release="+version)
	if found {
		line = append(line, "--", strings.TrimSpace(init))
	}
	text := strings.TrimSpace(strings.Join(slices.DeleteFunc(line, func(s string) bool { return s == "" }), " "))
	if len(text) > maxCmdline {
		return "", fmt.Errorf("command line: %d bytes, the kernel takes %d; sign a shorter one", len(text), maxCmdline)
	}
	return text, nil
}

// handedConsoles returns the console= words that go before and after the signed
// ones. The last console of a command line becomes /dev/console, where init
// writes: that is the release's own, unless none of those is in this machine.
func handedConsoles(signed, boot []string, works func(device string) bool) (before, after []string) {
	if slices.Contains(signed, bootargs.SignedConsole) {
		return nil, nil
	}
	var named []string
	usable := false
	for _, w := range signed {
		if v, ok := strings.CutPrefix(w, "console="); ok {
			named = append(named, consoleDevice(v))
			usable = usable || works(consoleDevice(v))
		}
	}
	words := consoleWords(boot, func(device string) bool { return !slices.Contains(named, device) && works(device) })
	if usable {
		return words, nil
	}
	return nil, words
}

// consoleDevice is the device of a console= value: ttyS0 of ttyS0,115200n8.
func consoleDevice(value string) string {
	device, _, _ := strings.Cut(value, ",")
	return device
}

// consoleWords copies console arguments that look like one and that are wanted,
// and nothing else.
func consoleWords(consoles []string, wanted func(device string) bool) []string {
	var words []string
	for _, v := range consoles {
		bad := strings.ContainsFunc(v, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == ',')
		})
		word := "console=" + v
		if v == "" || len(v) > 32 || bad || len(words) == maxConsole || slices.Contains(words, word) || !wanted(consoleDevice(v)) {
			continue
		}
		words = append(words, word)
	}
	return words
}
