package machine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A screen is the person's end of a terminal.
type screen struct {
	t    *testing.T
	file *os.File
	path string // the terminal
	seen chan []byte
	text []byte
}

// newScreen makes a pseudo-terminal. What is printed on it is read while the test looks.
func newScreen(t *testing.T) *screen {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if ctrl := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); ctrl != nil || err != nil {
		t.Fatal(ctrl, err)
	}
	s := &screen{t: t, file: f, path: fmt.Sprintf("/dev/pts/%d", number), seen: make(chan []byte, 1024)}
	// A terminal that nobody has open is hung up for the other end.
	hold, err := os.OpenFile(s.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close() })
	return s
}

// look reads what is printed from now on.
func (s *screen) look() {
	go func() {
		for {
			b := make([]byte, 4096)
			n, err := s.file.Read(b)
			s.seen <- b[:n]
			if err != nil {
				return
			}
		}
	}()
}

// shows waits until the words are on the screen.
func (s *screen) shows(words string) {
	s.t.Helper()
	late := time.After(time.Minute)
	for !bytes.Contains(s.text, []byte(words)) {
		select {
		case b := <-s.seen:
			s.text = append(s.text, b...)
		case <-late:
			s.t.Fatalf("no %q on %s:\n%s", words, s.path, s.text)
		}
	}
}

func (s *screen) types(keys string) {
	s.t.Helper()
	if _, err := s.file.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

func consolesOn(t *testing.T, screens ...*screen) *consoles {
	t.Helper()
	var paths []string
	for _, s := range screens {
		paths = append(paths, s.path)
	}
	c := &consoles{paths: func() []string { return paths }}
	c.find()
	t.Cleanup(func() {
		paths = nil
		c.find()
	})
	return c
}

func TestEveryConsoleShowsTheLines(t *testing.T) {
	one, two := newScreen(t), newScreen(t)
	c := consolesOn(t, one, two)
	one.look()
	two.look()
	newStory(c).Say("mount: done")
	c.drain()
	one.shows("mount: done")
	two.shows("mount: done")
}

// A console that stands still holds up nobody: not the boot, and not the other console.
func TestAConsoleThatStandsStillHoldsUpNothing(t *testing.T) {
	still, well := newScreen(t), newScreen(t)
	c := consolesOn(t, still, well)
	well.look()
	line := []byte(strings.Repeat("x", 1000) + "\n")
	for range 2 * terminalQueue {
		if _, err := c.Write(line); err != nil {
			t.Fatal(err)
		}
		if len(well.seen) > cap(well.seen)/2 {
			for range cap(well.seen) / 4 {
				well.text = append(well.text, <-well.seen...)
			}
		}
	}
	_, _ = c.Write([]byte("the end\n"))
	well.shows("x")
	still.look()
	still.shows("bytes of output are missing here")
}

func TestCtrlCOnAnyConsoleStopsTheAttempt(t *testing.T) {
	for which := range 2 {
		screens := []*screen{newScreen(t), newScreen(t)}
		c := consolesOn(t, screens...)
		for _, s := range screens {
			s.look()
		}
		ended := make(chan unix.WaitStatus, 1)
		go func() {
			ws, err := c.run("/bin/sh", []string{"sh", "-c", "trap 'echo stopped; exit 7' INT; echo running; while :; do sleep 0.01; done"})
			if err != nil {
				t.Error(err)
			}
			ended <- ws
		}()
		for _, s := range screens {
			s.shows("running")
		}
		screens[which].types("abc\x03")
		if ws := <-ended; ws.ExitStatus() != 7 {
			t.Errorf("status %d", ws.ExitStatus())
		}
		for _, s := range screens {
			s.shows("stopped")
			if bytes.Contains(s.text, []byte("abc")) {
				t.Errorf("what was typed is echoed: %q", s.text)
			}
		}
	}
}

// turnOn is a turn with the host's shell.
func turnOn(t *testing.T, c *consoles) turn {
	t.Helper()
	before := shellProgram
	shellProgram = []string{"/missing/busybox", "/bin/sh"}
	t.Cleanup(func() { shellProgram = before })
	return turn{out: c, pause: time.Hour}
}

func TestEachConsoleHasAShellAndLeavingOneTriesAgain(t *testing.T) {
	one, two := newScreen(t), newScreen(t)
	c := consolesOn(t, one, two)
	one.look()
	two.look()
	over := make(chan struct{})
	turn := turnOn(t, c)
	go func() {
		defer close(over)
		turn.wait()
	}()
	one.types("echo $((40+2)) $(tty)\n")
	one.shows("42 " + one.path)
	two.types("echo $((50+2)) $(tty)\n")
	two.shows("52 " + two.path)
	two.types("exit\n")
	<-over
	_, _ = c.Write([]byte("the next attempt\n")) // the shells' ends have hung the terminals up
	one.shows("the next attempt")
	two.shows("the next attempt")
}

func TestATurnEndsWithoutAKey(t *testing.T) {
	asked := make(chan struct{}, 1)
	asked <- struct{}{}
	for name, change := range map[string]func(*turn){
		"phase-boot retry":                      func(p *turn) { p.retry = asked },
		"the watcher says that it may help":     func(p *turn) { p.watch = []string{"/bin/true"}; p.typed = time.Hour },
		"no console, after the pause":           func(p *turn) { p.out = consolesOn(t); p.pause = time.Millisecond },
		"a terminal that hung up, pause and on": func(p *turn) { shellProgram = []string{"/bin/true"}; p.typed = time.Hour; p.pause = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			p := turnOn(t, consolesOn(t, newScreen(t)))
			change(&p)
			p.wait()
		})
	}
}

func TestAWatcherThatFailedEndsNothing(t *testing.T) {
	s := newScreen(t)
	p := turnOn(t, consolesOn(t, s))
	p.watch = []string{"/bin/false"}
	s.look()
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.wait()
	}()
	s.types("echo $((60+2))\n")
	s.shows("62")
	select {
	case <-over:
		t.Error("the turn ended")
	default:
	}
	s.types("exit\n")
	<-over
}

// machineTree makes the part of /proc, /sys and /dev that says which consoles there are.
func machineTree(t *testing.T, files map[string]string) (proc, sys, dev string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "proc"), filepath.Join(dir, "sys"), filepath.Join(dir, "dev")
}

func TestConsolesAreThoseThatAreInTheMachine(t *testing.T) {
	const (
		tty0   = "tty0                 -WU (EC  p  )    4:2\n"
		ttyS0  = "ttyS0                -W- (EC p a)    4:64\n"
		screen = "(M) frame buffer device\n"
		dummy  = "(S) dummy device\n"
	)
	for name, tt := range map[string]struct {
		consoles, vtcon, uart string
		want                  []string
	}{
		"a screen and a serial line": {tty0 + ttyS0, screen, "4", []string{"tty2", "ttyS0"}},
		"a screen only":              {tty0 + ttyS0, screen, "0", []string{"tty2"}},
		"a VGA text screen":          {tty0, "(S) VGA+\n", "0", []string{"tty2"}},
		"a serial line only":         {ttyS0 + tty0, dummy, "4", []string{"ttyS0"}},
		"neither":                    {tty0 + ttyS0, dummy, "0", nil},
		"one that is not a terminal": {"netcon0 -W- (E a) \nttynull0 -W- (E) \n" + ttyS0, dummy, "4", []string{"ttyS0"}},
		"no consoles at all":         {"", screen, "4", nil},
	} {
		t.Run(name, func(t *testing.T) {
			proc, sys, dev := machineTree(t, map[string]string{
				"proc/consoles": tt.consoles, "sys/class/tty/tty0/active": "tty2\n", "sys/class/tty/ttyS0/type": tt.uart + "\n",
				"sys/class/vtconsole/vtcon0/name": dummy, "sys/class/vtconsole/vtcon0/bind": "0\n",
				"sys/class/vtconsole/vtcon1/name": tt.vtcon, "sys/class/vtconsole/vtcon1/bind": "1\n",
				"dev/tty2": "", "dev/ttyS0": "", "dev/ttynull": "",
			})
			var want []string
			for _, w := range tt.want {
				want = append(want, filepath.Join(dev, w))
			}
			if got := consolePaths(proc, sys, dev); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
