package machine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	maxCmdline = 2047 // bytes: COMMAND_LINE_SIZE of x86 and arm64 without the final NUL
	maxConsole = 4    // console= arguments that are added for the next kernel

	// defaultPanic restarts the machine 30 s after a panic of the next kernel: time to read
	// its last lines. Linux alone would halt until a person restarts the machine.
	defaultPanic = "30"
)

// targetCmdline returns the command line of the next kernel: the signed one, then what the boot's own
// command line may add (docs/SHIP-YOUR-OWN-OS.md has the list), then phase.release=VERSION. No word is
// added that the release sets itself, and none that names a program, a device to boot from or a memory
// address. present reports whether the device of a console= value is in this machine.
func targetCmdline(signed, version string, local bootargs.Arguments, present func(device string) bool) (string, error) {
	if strings.ContainsFunc(signed, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("signed command line: it has a character outside printable ASCII; sign a new release without it")
	}
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return "", fmt.Errorf("release version %.40q: not usable on a command line; sign a new release with another version", version)
	}
	if strings.Count(signed, `"`)%2 != 0 {
		return "", errors.New("signed command line: unclosed quote; sign a new release with the quote closed")
	}
	// Arguments after a bare -- belong to init, not to the kernel.
	kernel, init, found := cutInit(" " + signed + " ")
	words := bootargs.SplitWords(kernel)
	before, after := addedConsoles(words, local.Console, present)
	line := append(before, strings.TrimSpace(kernel))
	line = append(line, after...)
	line = append(line, localWords(words, local)...)
	line = append(line, "phase.release="+version)
	if found {
		line = append(line, "--", strings.TrimSpace(init))
	}
	text := strings.TrimSpace(strings.Join(slices.DeleteFunc(line, func(s string) bool { return s == "" }), " "))
	if len(text) > maxCmdline {
		return "", fmt.Errorf("command line: %d bytes, the limit of the kernel is %d; sign a release with a shorter one", len(text), maxCmdline)
	}
	return text, nil
}

// cutInit cuts a command line around the first bare -- that is not in quotes.
func cutInit(line string) (kernel, init string, found bool) {
	const bare = " -- "
	for at := 0; ; at++ {
		next := strings.Index(line[at:], bare)
		if next < 0 {
			return line, "", false
		}
		at += next
		if strings.Count(line[:at], `"`)%2 == 0 {
			return line[:at], line[at+len(bare):], true
		}
	}
}

// localWords returns the words, other than consoles, that are added to the signed ones.
func localWords(signed []string, local bootargs.Arguments) (words []string) {
	sets := func(name string) bool {
		return slices.ContainsFunc(signed, func(w string) bool { return w == name || strings.HasPrefix(w, name+"=") })
	}
	if local.NoModeset && !sets("nomodeset") {
		words = append(words, "nomodeset")
	}
	if !sets("panic") {
		words = append(words, "panic="+cmp.Or(local.Panic, defaultPanic))
	}
	if !sets("phase.target") {
		for _, value := range local.Target {
			words = append(words, "phase.target="+value)
		}
	}
	if local.Watch != "" && !sets("phase.watch") {
		words = append(words, "phase.watch="+local.Watch)
	}
	return words
}

// addedConsoles returns the console= arguments that are added before and after the signed
// command line. The last console= becomes /dev/console, where init writes: it is one of the
// release's own, unless none of them is in this machine.
func addedConsoles(signed, boot []string, present func(device string) bool) (before, after []string) {
	if slices.Contains(signed, bootargs.SignedConsole) {
		return nil, nil
	}
	var named []string
	usable := false
	for _, w := range signed {
		if v, ok := strings.CutPrefix(w, "console="); ok {
			named = append(named, consoleDevice(v))
			usable = usable || present(consoleDevice(v))
		}
	}
	added := consoleArgs(boot, func(device string) bool { return !slices.Contains(named, device) && present(device) })
	if usable {
		return added, nil
	}
	return nil, added
}

// consoleDevice returns the device of a console= value: ttyS0 of ttyS0,115200n8.
func consoleDevice(value string) string {
	device, _, _ := strings.Cut(value, ",")
	return device
}

// consoleArgs returns console= arguments for at most maxConsole of the values: well-formed
// ones whose device is wanted, each once.
func consoleArgs(consoles []string, wanted func(device string) bool) []string {
	var args []string
	for _, v := range consoles {
		bad := strings.ContainsFunc(v, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == ',')
		})
		arg := "console=" + v
		if v == "" || len(v) > 32 || bad || len(args) == maxConsole || slices.Contains(args, arg) || !wanted(consoleDevice(v)) {
			continue
		}
		args = append(args, arg)
	}
	return args
}
