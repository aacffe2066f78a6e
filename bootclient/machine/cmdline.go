package machine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	maxCmdline = 2047 // bytes: COMMAND_LINE_SIZE of x86 and arm64 without the final NUL
	maxRepeats = 16   // of one repeatable argument
	maxConsole = 4    // console= arguments handed to the next kernel
)

// Arguments are the phase.* words of the boot kernel's command line. Whoever
// can type there sits at the machine; nothing here widens what it trusts.
type Arguments struct {
	Mode      string   // phase.mode=NAME, last one wins
	Channel   string   // phase.channel=NAME
	Cache     string   // phase.cache=rw|ro|off, may only narrow the mode
	NoWrite   bool     // phase.nowrite: no block device is opened for writing
	Mirrors   []string // phase.mirror=URL, repeatable
	Peers     []string // phase.peer=MULTIADDR, repeatable
	Bootstrap []string // phase.bootstrap=MULTIADDR, repeatable
	Console   []string // values of console=, in order
	Warnings  []string // one line for each word that was not taken
}

// ParseArguments reads a kernel command line. It never fails: a word that it
// does not take becomes a warning, so that a typing mistake costs a hint and not
// the boot.
func ParseArguments(cmdline string) Arguments {
	var a Arguments
	for _, word := range splitWords(cmdline) {
		if err := a.take(word); err != nil {
			a.Warnings = append(a.Warnings, err.Error())
		}
	}
	return a
}

func (a *Arguments) take(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	if name == "console" {
		a.Console = append(a.Console, value)
		return nil
	}
	if !strings.HasPrefix(name, "phase.") {
		return nil
	}
	if i := strings.IndexFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("%.80q ignored: only printable ASCII without spaces is taken", word)
	}
	if name == "phase.nowrite" {
		a.NoWrite = value != "0"
		return nil
	}
	if single := a.single(name); single != nil && hasValue {
		*single = value
		return nil
	}
	list := a.list(name)
	switch {
	case name == "phase.release": // set by the boot role for the target
		return nil
	case list == nil && a.single(name) == nil:
		return fmt.Errorf("%.80q ignored: not a phase.* argument of this version", word)
	case value == "":
		return fmt.Errorf("%.80q ignored: it needs a value", word)
	case len(*list) == maxRepeats:
		return fmt.Errorf("%.80q ignored: at most %d of %s are taken", word, maxRepeats, name)
	}
	*list = append(*list, value)
	return nil
}

func (a *Arguments) single(name string) *string {
	switch name {
	case "phase.mode":
		return &a.Mode
	case "phase.channel":
		return &a.Channel
	case "phase.cache":
		return &a.Cache
	}
	return nil
}

func (a *Arguments) list(name string) *[]string {
	switch name {
	case "phase.mirror":
		return &a.Mirrors
	case "phase.peer":
		return &a.Peers
	case "phase.bootstrap":
		return &a.Bootstrap
	}
	return nil
}

// splitWords cuts a command line as the kernel does: at white space outside
// double quotes, the quotes dropped.
func splitWords(cmdline string) []string {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range cmdline {
		switch {
		case r == '"':
			quoted, open = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

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
	words := splitWords(signed)
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
