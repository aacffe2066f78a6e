package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/display"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A screen is the side of a pseudo-terminal on which a person reads and types.
type screen struct {
	t    *testing.T
	file *os.File
	path string // the terminal
	seen chan []byte
	text []byte
}

// newScreen makes a pseudo-terminal. Output is read after a call of read.
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
	// Without an open file, the terminal would be hung up for the other side.
	hold, err := os.OpenFile(s.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close() })
	return s
}

// read reads the output in the background.
func (s *screen) read() {
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

// shows waits until the text is on the screen.
func (s *screen) shows(text string) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for !bytes.Contains(s.text, []byte(text)) {
		select {
		case b := <-s.seen:
			s.text = append(s.text, b...)
		case <-timeout:
			s.t.Fatalf("no %q on %s:\n%s", text, s.path, s.text)
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
	c.refresh()
	t.Cleanup(func() {
		paths = nil
		c.refresh()
	})
	return c
}

// kidsOf returns the children of a test.
func kidsOf(t *testing.T) *children {
	t.Helper()
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	return newChildren(false, stop)
}

// noLimits are limits that no test reaches.
var noLimits = runLimits{silence: time.Hour, total: func() time.Duration { return time.Hour }, each: func() {}}

// An attempt that hangs is ended, whether it prints nothing or prints for ever.
func TestAnAttemptThatHangsIsEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		change func(*runLimits)
		want   error
	}{
		"it prints nothing":      {"trap 'echo dump; exit 2' QUIT; while :; do sleep 0.01; done", func(l *runLimits) { l.silence = time.Second }, errSilent},
		"it prints for ever":     {"trap 'echo dump; exit 2' QUIT; while :; do echo on; sleep 0.01; done", func(l *runLimits) { l.total = func() time.Duration { return time.Second } }, errEndless},
		"its child prints":       {"echo on; exit 0", func(*runLimits) {}, nil},
		"a stack trace is shown": {"trap 'echo dump; exit 2' QUIT; echo on; while :; do sleep 0.01; done", func(l *runLimits) { l.silence = time.Second }, errSilent},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScreen(t)
			c := consolesOn(t, s)
			s.read()
			limits := noLimits
			tt.change(&limits)
			_, err := c.run(kidsOf(t), limits, "/bin/sh", []string{"sh", "-c", tt.script})
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want != nil {
				s.shows("dump")
			}
		})
	}
}

// What goes on is shown by the clock of PID 1, and only output of the boot process counts as a sign of
// life.
func TestProgressIsRewrittenInPlace(t *testing.T) {
	s := newScreen(t)
	c := consolesOn(t, s)
	s.read()
	out := records{io.Discard}
	var sent bytes.Buffer
	out.Writer = &sent
	out.Begin(uptime(), "fetch")
	out.send(display.ProgressOf(uptime(), 1<<20, 4<<20, []report.SourceStats{{Name: "192.0.2.1", Kind: "mdns", Bytes: 1 << 20}}))
	file := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(file, sent.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	limits := noLimits
	limits.silence = 6 * time.Second
	_, err := c.run(kidsOf(t), limits, "/bin/sh", []string{"sh", "-c", `trap 'exit 2' QUIT; cat "$0"; while :; do sleep 0.1; done`, file})
	if !errors.Is(err, errSilent) {
		t.Errorf("got %v", err)
	}
	newReport(c).Say("the end")
	s.shows("the end")
	for _, want := range []string{ // a busy host shows some seconds late, and others not at all
		`\] fetch: 25%, 1\.0 MiB of 4\.0 MiB, 1 source(, no data for \d+s)?\r\[`, `1 source, no data for \d+s *\r`,
	} {
		if !regexp.MustCompile(want).Match(s.text) {
			t.Errorf("no %s in %q", want, s.text)
		}
	}
	if n := bytes.Count(s.text, []byte("\n")); n != 1 {
		t.Errorf("%d lines stay: %q", n, s.text)
	}
}

// The boot process parses the network. Whatever it prints, no sequence of it reaches a terminal.
func TestTheBootProcessSendsNoSequences(t *testing.T) {
	s := newScreen(t)
	c := consolesOn(t, s)
	s.read()
	if _, err := c.run(kidsOf(t), noLimits, "/bin/sh", []string{"sh", "-c", `printf 'plain \033[2J\rtext\n\036{"at":1000,"text":"record \\u001b[2J"}\n'`}); err != nil {
		t.Fatal(err)
	}
	s.shows("record ?[2J")
	if bytes.Contains(s.text, []byte("\x1b")) || !bytes.Contains(s.text, []byte("plain ?[2J?text\r\n[  1.000s] record")) {
		t.Errorf("%q", s.text)
	}
}

func TestTheLimitOfAnAttemptGrowsWithThePayload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "limit")
	if got := readLimit(name); got != attemptLimit {
		t.Errorf("%s before the size is known", got)
	}
	for size, want := range map[int64]time.Duration{0: time.Hour, 57 << 20: time.Hour + 3648*time.Second, 1 << 62: longestLimit} {
		if err := writeLimit(name, size); err != nil {
			t.Fatal(err)
		}
		if got := readLimit(name); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
	for _, text := range []string{"", "-5", "x", "1e9", "99999999999999999999"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readLimit(name); got != attemptLimit {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestEveryConsoleShowsTheLines(t *testing.T) {
	one, two := newScreen(t), newScreen(t)
	c := consolesOn(t, one, two)
	one.read()
	two.read()
	newReport(c).Say("mount: done")
	c.drain()
	one.shows("mount: done")
	two.shows("mount: done")
}

// A driver that is loaded during the boot may add a screen.
func TestAConsoleThatAppearsShowsTheEarlierLines(t *testing.T) {
	one, two := newScreen(t), newScreen(t)
	paths := []string{one.path}
	c := &consoles{paths: func() []string { return paths }}
	c.refresh()
	t.Cleanup(func() { paths = nil; c.refresh() })
	one.read()
	two.read()
	newReport(c).Say("before")
	paths = append(paths, two.path)
	c.tick()
	newReport(c).Say("after")
	two.shows("after")
	if before, after, _ := bytes.Cut(two.text, []byte("after")); bytes.Count(before, []byte("before")) != 1 || bytes.Contains(after, []byte("before")) {
		t.Errorf("%q", two.text)
	}
}

// A stopped console delays neither the boot nor the other console.
func TestAStoppedConsoleDelaysNothing(t *testing.T) {
	stopped, running := newScreen(t), newScreen(t)
	c := consolesOn(t, stopped, running)
	running.read()
	line := []byte(strings.Repeat("x", 1000) + "\n")
	for range 2 * terminalQueue {
		if _, err := c.Write(line); err != nil {
			t.Fatal(err)
		}
		if len(running.seen) > cap(running.seen)/2 {
			for range cap(running.seen) / 4 {
				running.text = append(running.text, <-running.seen...)
			}
		}
	}
	_, _ = c.Write([]byte("the end\n"))
	running.shows("x")
	stopped.read()
	stopped.shows("bytes of output are missing here")
}

// refresh may remove a console while another goroutine is about to print on it.
func TestAPrintOnARemovedConsoleIsDropped(t *testing.T) {
	paths := []string{"/missing/tty"}
	c := &consoles{paths: func() []string { return paths }}
	c.refresh()
	removed := c.terminals()[0]
	paths = nil
	c.refresh()
	removed.print([]byte("late"))
	if removed.enqueue(chunk{drained: make(chan struct{})}) {
		t.Error("a removed console accepts output")
	}
}

func TestCtrlCOnAnyConsoleInterruptsTheAttempt(t *testing.T) {
	for which := range 2 {
		screens := []*screen{newScreen(t), newScreen(t)}
		c := consolesOn(t, screens...)
		for _, s := range screens {
			s.read()
		}
		ended := make(chan unix.WaitStatus, 1)
		go func() {
			ws, err := c.run(kidsOf(t), noLimits, "/bin/sh", []string{"sh", "-c", "trap 'echo stopped; exit 7' INT; echo running; while :; do sleep 0.01; done"})
			if err != nil {
				t.Error(err)
			}
			ended <- ws
		}()
		for _, s := range screens {
			s.shows("running")
		}
		screens[which].types("abc\x03")
		if ws := <-ended; ws.ExitStatus() != 7 || !c.interrupted.Load() {
			t.Errorf("status %d, interrupted: %t", ws.ExitStatus(), c.interrupted.Load())
		}
		for _, s := range screens {
			s.shows("stopped")
			if bytes.Contains(s.text, []byte("abc")) {
				t.Errorf("the input is echoed: %q", s.text)
			}
		}
	}
}

// machineTree makes the files of /proc, /sys and /dev that list the consoles.
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

func TestOnlyConsolesOfTheMachineAreUsed(t *testing.T) {
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
		"not a terminal":             {"netcon0 -W- (E a) \nttynull0 -W- (E) \n" + ttyS0, dummy, "4", []string{"ttyS0"}},
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
