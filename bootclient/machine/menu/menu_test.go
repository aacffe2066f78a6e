package menu

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestKeysOfATerminal(t *testing.T) {
	for name, tt := range map[string]struct {
		input []string // parts, as they arrive
		want  []Key
	}{
		"nothing":                   {nil, nil},
		"letters and numbers":       {[]string{"k3"}, []Key{'k', '3'}},
		"arrow keys":                {[]string{"\x1b[A\x1b[B\x1b[D"}, []Key{Up, Down, Back}},
		"application mode":          {[]string{"\x1bOA\x1bOB"}, []Key{Up, Down}},
		"an arrow key in parts":     {[]string{"\x1b", "[", "A"}, []Key{Up}},
		"with Shift":                {[]string{"\x1b[1;2A"}, []Key{Other}},
		"page down":                 {[]string{"\x1b[6~x"}, []Key{Other, 'x'}},
		"F1 of the Linux console":   {[]string{"\x1b[[Ax"}, []Key{Other, 'x'}},
		"Escape":                    {[]string{"\x1b", ""}, []Key{Back}},
		"Escape and a letter":       {[]string{"\x1bx"}, []Key{Other}},
		"Enter of a terminal":       {[]string{"\r"}, []Key{Enter}},
		"Enter of a script":         {[]string{"\n\n"}, []Key{Enter, Enter}},
		"Enter as two bytes":        {[]string{"\r\n\r", "\n"}, []Key{Enter, Enter}},
		"Backspace, both kinds":     {[]string{"\x7f\b"}, []Key{Back, Back}},
		"Ctrl-C":                    {[]string{"\x03"}, []Key{Back}},
		"Tab and Ctrl-L":            {[]string{"\t\x0c"}, []Key{Other, Other}},
		"a line without a cable":    {[]string{"\x00\x00\xff\xfe"}, nil},
		"a sequence without an end": {[]string{"\x1b[" + strings.Repeat("1", 40)}, []Key{Other}},
	} {
		t.Run(name, func(t *testing.T) {
			var k Keys
			var got []Key
			for _, part := range tt.input {
				if part == "" {
					got = append(got, k.Flush()...)
				}
				got = append(got, k.Decode([]byte(part))...)
			}
			if len(got) > len(tt.want) && tt.want != nil && strings.HasPrefix(name, "a sequence") {
				got = got[:len(tt.want)] // its rest is digits
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func options() Options {
	return Options{
		Title: "Attempt 1 has failed.", Countdown: time.Minute, AtEnd: Retry, Idle: 10 * time.Minute,
		Entries: []Entry{
			{Text: "try again now", Action: Retry},
			{Text: "another mode", Action: Mode, Values: []string{"internet", "private"}},
			{Text: "another channel", Action: Channel, Ask: "name of the channel:"},
			{Text: "shell", Action: Shell},
			{Text: "restart the machine", Action: Reboot},
		},
	}
}

func TestKeysChooseAnEntry(t *testing.T) {
	for name, tt := range map[string]struct {
		keys string
		want []Choice // of the keys that chose something
	}{
		"Enter":                             {"\r", []Choice{{Retry, ""}}},
		"a number alone chooses nothing":    {"4", nil},
		"a number and Enter":                {"4\r", []Choice{{Shell, ""}}},
		"a number that is not there":        {"9\r", []Choice{{Retry, ""}}},
		"down, down, up":                    {"\x1b[B\x1b[B\x1b[A\x1b[B\x1b[B\r", []Choice{{Shell, ""}}},
		"up from the first is the last":     {"\x1b[A\r", []Choice{{Reboot, ""}}},
		"down from the last is the first":   {"5j\r", []Choice{{Retry, ""}}},
		"a mode from the list":              {"2\r\x1b[B\r", []Choice{{Mode, "private"}}},
		"a mode by number":                  {"2\r2\r", []Choice{{Mode, "private"}}},
		"back from the list":                {"2\rq4\r", []Choice{{Shell, ""}}},
		"a channel is typed":                {"3\rBeta_2 x\x7f\r", []Choice{{Channel, "eta_2"}}},
		"an empty channel is no choice":     {"3\rx\x7f\r1\r", []Choice{{Retry, ""}}},
		"Backspace leaves the question":     {"3\r\x7f1\r", []Choice{{Retry, ""}}},
		"the menu is there after a choice":  {"4\r\r5\r", []Choice{{Shell, ""}, {Shell, ""}, {Reboot, ""}}},
		"a long channel ends at its limit":  {"3\r" + strings.Repeat("a", 100) + "\r", []Choice{{Channel, strings.Repeat("a", maxTyped)}}},
		"letters without a meaning":         {"xyz!", nil},
		"numbers and arrows work in a list": {"2\r1\x1b[A\r", []Choice{{Mode, "private"}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(options())
			var k Keys
			var got []Choice
			for _, key := range k.Decode([]byte(tt.keys)) {
				if c := m.Press(key); c.Action != None {
					got = append(got, c)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// seconds lets time pass until something is chosen, and returns the choice and when that was.
func seconds(m *Menu, limit int) (Choice, int) {
	for n := range limit {
		if c := m.Tick(time.Second); c.Action != None {
			return c, n + 1
		}
	}
	return Choice{}, limit
}

func TestTheCountdown(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Options)
		key    bool
		want   Action
		after  int // seconds
	}{
		"without a key the boot is tried again":       {func(*Options) {}, false, Retry, 60},
		"or the machine restarts":                     {func(o *Options) { o.AtEnd = Reboot }, false, Reboot, 60},
		"a key stops it, and ten minutes start again": {func(*Options) {}, true, Retry, 660},
		"a key stops it for ever":                     {func(o *Options) { o.Idle = 0 }, true, None, 5000},
		"no countdown":                                {func(o *Options) { o.Countdown = 0 }, false, None, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			tt.change(&o)
			m := New(o)
			if tt.key {
				m.Tick(time.Second)
				m.Press(Other)
				if m.Counting() {
					t.Error("the key did not stop the countdown")
				}
			}
			if c, after := seconds(m, 5000); c.Action != tt.want || after != tt.after {
				t.Errorf("%v after %d s, want %v after %d s", c.Action, after, tt.want, tt.after)
			}
		})
	}
}

// terminal is a minimal terminal: it keeps rows, and understands a carriage return, a new line, the
// cursor up and the deletion to the end of the screen.
type terminal struct {
	rows       []string
	row, col   int
	sequences  int
	wasTooLong bool
}

func (v *terminal) print(t *testing.T, text string, width int) {
	t.Helper()
	for text != "" {
		var n int
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := strings.IndexAny(text, "AJm")
			v.sequences++
			switch text[end] {
			case 'A':
				for _, d := range text[2:end] {
					n = 10*n + int(d-'0')
				}
				v.row -= n
			case 'J':
				v.rows = v.rows[:v.row]
			}
			text = text[end+1:]
			continue
		case text[0] == '\r':
			v.col = 0
		case text[0] == '\n':
			v.row, v.col = v.row+1, 0
		default:
			for len(v.rows) <= v.row {
				v.rows = append(v.rows, "")
			}
			row := []byte(v.rows[v.row] + strings.Repeat(" ", max(0, v.col+1-len(v.rows[v.row]))))
			row[v.col] = text[0]
			v.rows[v.row] = string(row)
			v.col++
			v.wasTooLong = v.wasTooLong || v.col >= width
		}
		text = text[1:]
	}
}

// shown returns the rows without trailing spaces.
func (v *terminal) shown() string {
	var b strings.Builder
	for _, r := range v.rows {
		b.WriteString(strings.TrimRight(r, " ") + "\n")
	}
	return b.String()
}

func TestAScreenShowsTheMenuInPlace(t *testing.T) {
	m, v, scr := New(options()), View{Screen: true, Width: 60}, terminal{}
	m.SetStatus("still searching: mDNS: no peers yet, and a text that is longer than the screen is wide")
	scr.print(t, "an earlier line\n"+v.Draw(m), 60)
	want := `an earlier line
Attempt 1 has failed.
> 1 try again now
  2 another mode
  3 another channel
  4 shell
  5 restart the machine
Choose with the arrow keys or a number, then press Enter.
  (by itself in 1m0s; any key stops this)
  still searching: mDNS: no peers yet, and a text that is ~
`
	if scr.shown() != want || scr.wasTooLong {
		t.Errorf("got\n%s", scr.shown())
	}
	if again := v.Draw(m); again != "" {
		t.Errorf("drawn again: %q", again)
	}
	m.Press(Down)
	m.Press(Enter)
	m.SetStatus("")
	scr.print(t, v.Draw(m), 60)
	want = `an earlier line
another mode:
> 1 internet
  2 private
Choose with the arrow keys or a number, then press Enter. ~
`
	if scr.shown() != want {
		t.Errorf("got\n%s", scr.shown())
	}
	m.Press(Back)
	m.Press('3')
	m.Press(Enter)
	m.Press('b')
	scr.print(t, v.Leave()+"another line\n"+v.Draw(m), 60)
	if !strings.Contains(scr.shown(), "\nanother line\nAttempt 1") || !strings.Contains(scr.shown(), "\nname of the channel: b_\n") {
		t.Errorf("got\n%s", scr.shown())
	}
}

func TestASerialLineNeedsNoSequences(t *testing.T) {
	m, v, scr := New(options()), View{}, terminal{}
	scr.print(t, v.Draw(m), 80)
	for range 30 {
		m.Tick(time.Second)
		scr.print(t, v.Draw(m), 80)
	}
	want := `Attempt 1 has failed.
  1 try again now
  2 another mode
  3 another channel
  4 shell
  5 restart the machine
Choose with the arrow keys or a number, then press Enter.
> 1 try again now (by itself in 30s; any key stops this)
`
	if scr.shown() != want {
		t.Errorf("got\n%s", scr.shown())
	}
	m.Press('4')
	scr.print(t, v.Draw(m), 80)
	if want = strings.Replace(want, "> 1 try again now (by itself in 30s; any key stops this)", "> 4 shell", 1); scr.shown() != want {
		t.Errorf("got\n%s", scr.shown())
	}
	scr.print(t, v.Leave()+"a line\n"+v.Draw(m), 80)
	if !strings.HasSuffix(scr.shown(), "\n> 4 shell\na line\n"+want) || scr.sequences != 0 || scr.wasTooLong {
		t.Errorf("got %d sequences in\n%s", scr.sequences, scr.shown())
	}
}

// A long countdown does not fill the log of a serial line.
func TestALongCountdownIsDrawnEveryTenSeconds(t *testing.T) {
	o := options()
	o.Countdown = 10 * time.Minute
	m, v := New(o), View{}
	v.Draw(m)
	drawn := 0
	for range 500 {
		m.Tick(time.Second)
		if v.Draw(m) != "" {
			drawn++
		}
	}
	if drawn > 55 {
		t.Errorf("drawn %d times in 500 s", drawn)
	}
}

func FuzzMenu(f *testing.F) {
	f.Add([]byte("2\r\x1b[B\r3\rbeta\r"))
	f.Fuzz(func(t *testing.T, input []byte) {
		m, screen, line := New(options()), View{Screen: true, Width: 40}, View{}
		var k Keys
		for _, b := range input {
			for _, key := range k.Decode([]byte{b}) {
				if c := m.Press(key); c.Action == Channel && (c.Value == "" || strings.Trim(c.Value, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "") {
					t.Errorf("channel %q", c.Value)
				}
			}
			screen.Draw(m)
			if strings.Contains(line.Draw(m), "\x1b") {
				t.Error("a sequence on a line")
			}
		}
	})
}
