package bootargs

import (
	"fmt"
	"strings"
)

// MaxRepeats is how often a repeatable argument is taken.
const MaxRepeats = 16

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

// Parse reads a kernel command line. It never fails: a word that it
// does not take becomes a warning, so that a typing mistake costs a hint and not
// the boot.
func Parse(cmdline string) Arguments {
	var a Arguments
	for _, word := range SplitWords(cmdline) {
		if err := a.take(word); err != nil {
			a.Warnings = append(a.Warnings, err.Error())
		}
	}
	return a
}

func (a *Arguments) take(word string) error {
	shown := redactAll(word)
	name, value, _ := strings.Cut(word, "=")
	if name == "console" {
		a.Console = append(a.Console, value)
		return nil
	}
	if err := foreign(word); err != nil || !strings.HasPrefix(name, "phase.") {
		return err
	}
	if i := strings.IndexFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("%.80q: only printable ASCII without spaces is taken", shown)
	}
	if name == "phase.nowrite" {
		return a.takeNoWrite(value)
	}
	single, list := a.single(name), a.list(name)
	switch {
	case isRelease(word): // set by the boot role for the target
		return nil
	case list == nil && single == nil:
		return fmt.Errorf("%.80q: not a phase.* argument of this version", shown)
	case value == "":
		return fmt.Errorf("%.80q: it needs a value", shown)
	case single != nil:
		*single = value
		return nil
	case len(*list) == MaxRepeats:
		return fmt.Errorf("%.80q: at most %d of %s are taken", shown, MaxRepeats, name)
	}
	*list = append(*list, value)
	return nil
}

// takeNoWrite forbids writing unless the value is 0; a mistake forbids it too.
func (a *Arguments) takeNoWrite(value string) error {
	a.NoWrite = value != "0"
	if value != "" && value != "0" && value != "1" {
		return fmt.Errorf("phase.nowrite=%.40q: phase.nowrite takes 0 or 1", value)
	}
	return nil
}

// isRelease reports whether a word is the release's version, which the boot role hands to
// the target.
func isRelease(word string) bool {
	name, _, _ := strings.Cut(word, "=")
	return name == "phase.release"
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

// SplitWords cuts a command line as the kernel does: at white space outside
// double quotes, the quotes dropped.
func SplitWords(cmdline string) []string {
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
