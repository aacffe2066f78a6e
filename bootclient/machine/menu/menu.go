package menu

import (
	"fmt"
	"strings"
	"time"
)

// An Action is what an entry of the menu does.
type Action int

// The actions. None is no choice yet.
const (
	None     Action = iota
	Retry           // start the next attempt
	Mode            // start it with the boot mode Choice.Value
	Channel         // start it with the channel Choice.Value
	LastGood        // start it with the last good release
	Network         // show the network
	Report          // show the report of this boot
	Messages        // show the messages of the kernel
	Save            // save the report
	Shell           // open a shell
	Reboot          // restart the machine
)

// A Choice is an action that was chosen, with the mode or the channel.
type Choice struct {
	Action Action
	Value  string
}

// An Entry is one line of the menu. Choosing it chooses Action, unless it has a list of values or asks
// for one.
type Entry struct {
	Text   string
	Action Action
	Values []string // a list to choose the value from
	Ask    string   // the question for a value, "" for none
}

// Options are what a menu shows.
type Options struct {
	Title     string
	Entries   []Entry
	Countdown time.Duration // until AtEnd is chosen without a key; 0 for no countdown
	AtEnd     Action        // Retry or Reboot
	// Idle is how long no key must be pressed until the countdown starts again; 0 is never.
	Idle time.Duration
}

// A Menu is the state of the menu.
type Menu struct {
	Options
	status   string
	selected int    // of the entries
	inner    bool   // the values of the selected entry are shown
	value    int    // the selected one of these
	asking   bool   // a value is typed
	typed    string // so far
	counting bool
	left     time.Duration // of the countdown, or of Idle
}

// maxTyped is the longest value that can be typed. It is that of a channel.
const maxTyped = 64

// New returns a menu whose countdown begins.
func New(o Options) *Menu {
	return &Menu{Options: o, counting: o.Countdown > 0, left: o.Countdown}
}

// SetStatus sets the line about what goes on behind the menu.
func (m *Menu) SetStatus(text string) { m.status = text }

// Hold stops the countdown, as a key does.
func (m *Menu) Hold() {
	m.counting, m.left = false, m.Idle
}

// Counting reports whether the countdown runs.
func (m *Menu) Counting() bool { return m.counting }

// Tick lets time pass. It returns AtEnd at the end of the countdown.
func (m *Menu) Tick(d time.Duration) Choice {
	if m.Countdown == 0 || !m.counting && m.Idle == 0 {
		return Choice{}
	}
	m.left -= d
	switch {
	case m.left > 0:
		return Choice{}
	case m.counting:
		return Choice{Action: m.AtEnd}
	}
	m.counting, m.left = true, m.Countdown
	m.inner, m.asking, m.selected = false, false, 0
	return Choice{}
}

// Press handles a key, which stops the countdown. It returns the choice, if the key made one.
func (m *Menu) Press(k Key) Choice {
	m.Hold()
	switch {
	case m.asking:
		return m.pressTyped(k)
	case k == Up, k == 'k':
		m.move(-1)
	case k == Down, k == 'j':
		m.move(1)
	case k >= '1' && k <= '9':
		m.moveTo(int(k - '1'))
	case k == '0':
		m.moveTo(9)
	case k == Back, k == 'q':
		m.inner = false
	case k == Enter:
		return m.enter()
	}
	return Choice{}
}

// pressTyped handles a key while a value is typed.
func (m *Menu) pressTyped(k Key) Choice {
	switch {
	case k == Enter && m.typed != "":
		m.asking = false
		return Choice{m.Entries[m.selected].Action, m.typed}
	case k == Back && m.typed != "":
		m.typed = m.typed[:len(m.typed)-1]
	case k == Back, k == Enter:
		m.asking = false
	case inName(k) && len(m.typed) < maxTyped:
		m.typed += string(rune(k))
	}
	return Choice{}
}

// inName reports whether a key is a character of a channel's name.
func inName(k Key) bool {
	return k >= 'a' && k <= 'z' || k >= '0' && k <= '9' || k == '-' || k == '_'
}

// enter chooses the selected line.
func (m *Menu) enter() Choice {
	e := m.Entries[m.selected]
	switch {
	case m.inner:
		m.inner = false
		return Choice{e.Action, e.Values[m.value]}
	case e.Ask != "":
		m.asking, m.typed = true, ""
	case len(e.Values) > 0:
		m.inner, m.value = true, 0
	default:
		return Choice{Action: e.Action}
	}
	return Choice{}
}

// move moves the selection by n lines, around the ends.
func (m *Menu) move(n int) {
	at, count := m.position()
	m.moveTo((at + n + count) % count)
}

// moveTo selects a line, if there is one.
func (m *Menu) moveTo(n int) {
	switch _, count := m.position(); {
	case n >= count:
	case m.inner:
		m.value = n
	default:
		m.selected = n
	}
}

// position returns the selected line of the list that is shown, and the length of the list.
func (m *Menu) position() (at, count int) {
	if m.inner {
		return m.value, len(m.Entries[m.selected].Values)
	}
	return m.selected, len(m.Entries)
}

// lines returns the texts of the list that is shown.
func (m *Menu) lines() []string {
	if m.inner {
		return m.Entries[m.selected].Values
	}
	var list []string
	for _, e := range m.Entries {
		list = append(list, e.Text)
	}
	return list
}

// title returns the line above the list.
func (m *Menu) title() string {
	if m.inner {
		return m.Entries[m.selected].Text + ":"
	}
	return m.Title
}

// Hint says which keys work.
const Hint = "Choose with the arrow keys or a number, then press Enter."

// hint returns the line below the list.
func (m *Menu) hint() string {
	if m.inner {
		return Hint + " Backspace goes back."
	}
	return Hint
}

// choice returns the selected line, or what is typed.
func (m *Menu) choice() string {
	if m.asking {
		return m.Entries[m.selected].Ask + " " + m.typed + "_"
	}
	at, _ := m.position()
	return fmt.Sprintf("%d %s", number(at), m.lines()[at])
}

// number returns the key that selects a line: 0 for the tenth.
func number(at int) int { return (at + 1) % 10 }

// countdown says what happens without a key.
func (m *Menu) countdown() string {
	if !m.counting {
		return ""
	}
	what := ""
	if m.AtEnd == Reboot {
		what = "restart "
	}
	return fmt.Sprintf("(%sby itself in %s; any key stops this)", what, coarse(m.left))
}

// coarse rounds a time up: to 10 s above a minute, so that a serial line is not written every second.
func coarse(d time.Duration) time.Duration {
	step := time.Second
	if d > time.Minute {
		step = 10 * time.Second
	}
	return (d + step - 1) / step * step
}

// join joins the texts that are not empty.
func join(separator string, texts ...string) string {
	var list []string
	for _, t := range texts {
		if t != "" {
			list = append(list, t)
		}
	}
	return strings.Join(list, separator)
}
