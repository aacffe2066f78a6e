package bootargs

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/internal/window"
)

const (
	// MaxRepeats is how many values of a repeatable argument are used.
	MaxRepeats = 16
	// MaxRetry is the largest value of phase.retry=.
	MaxRetry = 1000
)

// Arguments are the phase.* arguments of the boot kernel's command line. A person at the machine can
// type them; none of them extends what the machine trusts.
type Arguments struct {
	Mode      string   // phase.mode=NAME; the last one counts
	Channel   string   // phase.channel=NAME
	Cache     string   // phase.cache=rw|ro|off; can only reduce the rights of the mode
	NoWrite   bool     // phase.nowrite: no block device is opened for writing
	Stale     string   // phase.stale=refuse|last-good: what a boot does if it finds no valid metadata; "" leaves it to the mode
	Retry     string   // phase.retry=N: the machine restarts after N failed attempts; 0 is never, "" leaves it to the mode
	Screen    string   // phase.screen=lines|full|plain: how the consoles show a boot
	Groups    []string // phase.group=NAME[,NAME], repeatable: of the machine, which choose among signed releases
	Mirrors   []string // phase.mirror=URL, repeatable
	Peers     []string // phase.peer=MULTIADDR, repeatable
	Bootstrap []string // phase.bootstrap=MULTIADDR, repeatable

	// The local part of the target's command line:
	Console   []string // values of console=, in order
	Panic     string   // panic=, if it is from 1 to 3600 seconds
	NoModeset bool     // nomodeset
	Target    []string // phase.target=VALUE, repeatable: for the software of the target
	Watch     string   // phase.watch=on|off|WINDOW: whether and when the target fetches the next release

	IP         []IP     // phase.ip=, repeatable; those of ip= if there is none
	VLANs      []VLAN   // phase.vlan=, repeatable
	Bonds      []Bond   // phase.bond=, repeatable
	Interfaces []string // phase.interface=NAME|MAC|DRIVER,…: only these ports are used
	Proxy      string   // phase.proxy=URL, for mirrors

	Warnings []string // one line for each argument that was ignored
}

// Parse reads a kernel command line. It never fails: an invalid argument becomes a warning, so that a
// typing mistake loses a hint and not the boot.
func Parse(cmdline string) Arguments {
	var a Arguments
	for _, word := range SplitWords(cmdline) {
		if err := a.take(word); err != nil {
			a.Warnings = append(a.Warnings, err.Error())
		}
	}
	a.dropPlain()
	return a
}

// take adds one argument.
func (a *Arguments) take(word string) error {
	shown := redactAll(word)
	name, value, _ := strings.Cut(word, "=")
	if a.takeLocal(word) {
		return nil
	}
	if err := checkForeign(word); err != nil || !strings.HasPrefix(name, "phase.") && name != "ip" {
		return err
	}
	if i := strings.IndexFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("%.80q: only printable ASCII without spaces is allowed", shown)
	}
	switch name {
	case "phase.nowrite":
		return a.takeNoWrite(value)
	case "phase.stale":
		return a.takeStale(value)
	case "phase.retry":
		return a.takeRetry(value)
	case "phase.screen":
		return a.takeScreen(value)
	case "phase.group":
		return a.takeGroups(value)
	case "phase.watch":
		return a.takeWatch(value)
	}
	single, list := a.field(name)
	switch {
	case name == "ip" && value == "": // the kernel's default
		return nil
	case isNetwork(name) && value != "":
		if err := a.takeNetwork(name, value); err != nil {
			return fmt.Errorf("%.80q: %w", shown, err)
		}
		return nil
	case isNetwork(name):
		return fmt.Errorf("%.80q: needs a value", shown)
	case isRelease(word): // set by the boot role for the target
		return nil
	case list == nil && single == nil:
		return fmt.Errorf("%.80q: not a phase.* argument of this version", shown)
	case value == "":
		return fmt.Errorf("%.80q: needs a value", shown)
	case single != nil:
		*single = value
		return nil
	case name == "phase.target" && checkTarget(value) != nil:
		return checkTarget(value)
	case len(*list) == MaxRepeats:
		return fmt.Errorf("%.80q: at most %d values of %s are used", shown, MaxRepeats, name)
	}
	*list = append(*list, value)
	return nil
}

// takeNoWrite forbids writing unless the value is 0. An invalid value forbids it too.
func (a *Arguments) takeNoWrite(value string) error {
	a.NoWrite = value != "0"
	if value != "" && value != "0" && value != "1" {
		return fmt.Errorf("phase.nowrite=%.40q: invalid value; use 0 or 1", value)
	}
	return nil
}

// takeStale takes the policy for metadata that are not valid any more.
func (a *Arguments) takeStale(value string) error {
	if err := CheckStale(value); err != nil {
		return fmt.Errorf("phase.stale=%.40q: %w", value, err)
	}
	a.Stale = value
	return nil
}

// CheckStale refuses a value of phase.stale= that is not a policy.
func CheckStale(value string) error {
	if value != "refuse" && value != "last-good" {
		return refusal.Invalid("unknown; use refuse or last-good")
	}
	return nil
}

// takeRetry takes the number of failed attempts after which the machine restarts.
func (a *Arguments) takeRetry(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > MaxRetry || strconv.Itoa(n) != value {
		return fmt.Errorf("phase.retry=%.40q: invalid value; use a number of attempts from 1 to %d, or 0 for no restart", value, MaxRetry)
	}
	a.Retry = value
	return nil
}

// Screens are the values of phase.screen=.
var Screens = []string{"lines", "full", "plain"}

// takeScreen takes how the consoles show a boot.
func (a *Arguments) takeScreen(value string) error {
	if !slices.Contains(Screens, value) {
		return fmt.Errorf("phase.screen=%.40q: unknown; use %s or %s", value, strings.Join(Screens[:2], ", "), Screens[2])
	}
	a.Screen = value
	return nil
}

// groupName is the grammar of package manifest.
var groupName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// CheckGroup refuses a name that no group of machines can have.
func CheckGroup(name string) error {
	if !groupName.MatchString(name) {
		return refusal.Invalid("group %.40q: use a-z, 0-9, _ and -, at most 32, a letter or digit first", name)
	}
	return nil
}

// takeGroups takes groups of the machine, all of the value or none.
func (a *Arguments) takeGroups(value string) error {
	groups := slices.Clone(a.Groups)
	for name := range strings.SplitSeq(value, ",") {
		if err := CheckGroup(name); err != nil {
			return fmt.Errorf("phase.group=%.80q: %w", value, err)
		}
		if !slices.Contains(groups, name) {
			groups = append(groups, name)
		}
	}
	if len(groups) > MaxRepeats {
		return fmt.Errorf("phase.group=%.80q: %d groups; at most %d are used", value, len(groups), MaxRepeats)
	}
	a.Groups = groups
	return nil
}

// takeWatch takes whether and when the target fetches the next release.
func (a *Arguments) takeWatch(value string) error {
	if _, _, err := CheckWatch(value); err != nil {
		return fmt.Errorf("phase.watch=%.80q: %w", value, err)
	}
	a.Watch = value
	return nil
}

// CheckWatch reads a value of phase.watch=: on is a window that is always open. The error wraps fs.ErrInvalid.
func CheckWatch(value string) (on bool, w window.Window, err error) {
	switch value {
	case "on":
		return true, w, nil
	case "off":
		return false, w, nil
	}
	if w, err = window.Parse(value); err != nil {
		return false, w, refusal.Invalid("%v; use on, off or a window", err)
	}
	return true, w, nil
}

// RestartAfter returns the number of failed attempts after which the machine restarts, 0 for never.
// mode is the number of the boot mode, for a command line without phase.retry=.
func (a Arguments) RestartAfter(mode int) int {
	if n, err := strconv.Atoi(a.Retry); err == nil {
		return n
	}
	return mode
}

// isRelease reports whether a word is phase.release=, with which the boot role passes the release's
// version to the target.
func isRelease(word string) bool {
	name, _, _ := strings.Cut(word, "=")
	return name == "phase.release"
}

// field returns the field of an argument: single if it has one value, list if it is repeatable, and
// neither for an unknown argument.
func (a *Arguments) field(name string) (single *string, list *[]string) {
	switch name {
	case "phase.mode":
		return &a.Mode, nil
	case "phase.channel":
		return &a.Channel, nil
	case "phase.cache":
		return &a.Cache, nil
	case "phase.mirror":
		return nil, &a.Mirrors
	case "phase.peer":
		return nil, &a.Peers
	case "phase.bootstrap":
		return nil, &a.Bootstrap
	case "phase.target":
		return nil, &a.Target
	}
	return nil, nil
}

// SplitWords splits a command line as the kernel does: at white space outside double quotes. It
// removes the quotes.
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
