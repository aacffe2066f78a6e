package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/display"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

// drainLimit is how long the jump waits until slow consoles have printed the last lines.
const drainLimit = 5 * time.Second

// consoles is the list of terminals that the kernel prints on and that exist in this machine:
// the screen and serial lines. It shows reports (report.Display) and the output of the boot process on
// each of them, or on stdout before the first refresh. It is safe for concurrent use.
type consoles struct {
	paths func() []string // paths of the terminals, see consolePaths

	interrupted atomic.Bool // the last run was ended by Ctrl-C

	mu   sync.Mutex
	list []*terminal
	form display.Form
	boot display.Boot // what the terminals show
	live bool         // a process runs: what goes on is shown too
}

// begin forgets what was shown of an earlier attempt.
func (c *consoles) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot = display.Boot{}
}

// use sets the form in which the terminals show a boot.
func (c *consoles) use(form display.Form) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form = form
}

// refresh updates the list: a driver that was loaded may have added a screen. It returns the
// paths for the report.
func (c *consoles) refresh() (summary string) {
	paths := c.paths()
	c.mu.Lock()
	defer c.mu.Unlock()
	late := len(c.list) > 0 // a new console has missed lines
	var kept []*terminal
	for _, t := range c.list {
		if slices.Contains(paths, t.path) {
			kept = append(kept, t)
		} else {
			t.close()
		}
	}
	for _, path := range paths {
		if !slices.ContainsFunc(kept, func(t *terminal) bool { return t.path == path }) {
			kept = append(kept, c.add(path, late))
		}
	}
	c.list = kept
	if len(paths) == 0 {
		return "none: no screen and no serial port"
	}
	return strings.Join(paths, " ")
}

// add returns a new terminal. One that is late shows the lines that it has missed.
func (c *consoles) add(path string, late bool) *terminal {
	t := newTerminal(path)
	t.view = display.View{Form: c.form, Screen: isScreen(filepath.Base(path))}
	t.view.Width, t.view.Height = t.size()
	if late {
		for _, e := range c.boot.History() {
			t.show(t.view.Line(e))
		}
	}
	if c.live {
		t.show(t.view.Enter(&c.boot, uptime()))
	}
	return t
}

func (c *consoles) terminals() []*terminal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// Write prints plain lines on every console. It never fails and never waits for a console.
func (c *consoles) Write(p []byte) (int, error) {
	lines := display.Reader{Take: c.take}
	defer lines.Close()
	return lines.Write(p)
}

// refuse prints why nothing was booted.
func (c *consoles) refuse(text string) {
	for line := range strings.Lines(text) {
		level := report.Info
		if strings.HasPrefix(line, refusedPrefix) {
			level = report.Failed
		}
		c.take(display.Plain(level, strings.TrimSuffix(line, "\n")))
	}
}

// Begin shows that a step begins.
func (c *consoles) Begin(at time.Duration, step string) { c.take(display.Began(at, step)) }

// Line shows a line of a report.
func (c *consoles) Line(l report.Line) { c.take(display.LineOf(l)) }

// take shows an event on every console.
func (c *consoles) take(e display.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := uptime()
	e = e.NotAfter(now)
	c.boot.Take(e, now)
	if len(c.list) == 0 && e.IsLine() {
		_, _ = os.Stdout.WriteString(e.String() + "\n")
	}
	for _, t := range c.list {
		t.show(t.view.Line(e))
	}
}

// enter begins to show what goes on.
func (c *consoles) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = true
	for _, t := range c.list {
		t.show(t.view.Enter(&c.boot, uptime()))
	}
}

// tick shows what goes on.
func (c *consoles) tick() {
	c.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := uptime()
	for _, t := range c.list {
		if len(t.queue) > maxWaiting {
			continue
		}
		if t.view.Screen {
			width, height := t.size()
			t.show(t.view.Resize(width, height, &c.boot, now))
		}
		t.show(t.view.Tick(&c.boot, now))
	}
}

// maxWaiting is how many chunks may wait for a slow console before it gets no line of progress: those
// must not take the place of lines that stay.
const maxWaiting = 8

// leave ends what tick shows, so that others may print.
func (c *consoles) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = false
	for _, t := range c.list {
		t.show(t.view.Leave(&c.boot))
	}
}

// drain waits until all output has left the devices, for at most drainLimit. The jump would cut
// off the rest.
func (c *consoles) drain() {
	timeout := time.After(drainLimit)
	list := c.terminals()
	drained := make(chan struct{}, len(list))
	waiting := 0
	for _, t := range list {
		if t.enqueue(chunk{drained: drained}) {
			waiting++
		}
	}
	for range waiting {
		select {
		case <-drained:
		case <-timeout:
			return
		}
	}
}

// runLimits are the limits of a process that PID 1 waits for.
type runLimits struct {
	silence time.Duration        // without a line of output
	total   func() time.Duration // of its run
	each    func()               // called every second while it is within its limits, as is consoles.tick
}

// killAfter is how long a process that has reached a limit has to print where it hangs.
const killAfter = 10 * time.Second

// errStuck is the error for a process that does not end although it was killed.
var errStuck = errors.New("boot process: cannot be ended, a device does not answer; the machine restarts")

// run starts a program, prints its output on every console, and waits for its end. Ctrl-C on
// any console interrupts the program. A program that reaches a limit gets SIGQUIT, which makes a Go
// program print where it hangs, and is then killed; the error names the limit.
func (c *consoles) run(kids *children, limits runLimits, path string, argv []string) (unix.WaitStatus, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	var started atomic.Pointer[process]
	c.interrupted.Store(false)
	interrupt := func() {
		if c.interrupted.Store(true); started.Load() != nil {
			started.Load().signal(unix.SIGINT)
		}
	}
	for _, t := range c.terminals() { // before the program starts, so that no Ctrl-C is lost
		defer t.onCtrlC(interrupt)()
	}
	p, err := kids.start(func() (int, error) { return spawnQuiet(path, argv, w) })
	w.Close()
	if err != nil {
		return 0, err
	}
	started.Store(p)
	if c.interrupted.Load() { // before it had started
		p.signal(unix.SIGINT)
	}
	c.enter()
	defer c.leave()
	lines := &display.Reader{Take: c.take}
	out := &timedWriter{w: lines, began: time.Now()}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer lines.Close()
		_, _ = io.Copy(out, r)
	}()
	each := limits.each
	limits.each = func() { each(); c.tick() }
	if err = waitWithin(p, limits, out); errors.Is(err, errStuck) {
		return 0, err
	}
	<-copied
	return p.status, err
}

// waitWithin waits for a process. After a limit it ends the process and returns an error.
func waitWithin(p *process, limits runLimits, out *timedWriter) error {
	tick := time.NewTicker(min(time.Second, limits.silence/4))
	defer tick.Stop()
	for {
		select {
		case <-p.ended:
			return nil
		case <-tick.C:
			so, total := time.Since(out.began), limits.total()
			switch {
			case so-time.Duration(out.last.Load()) > limits.silence:
				return endProcess(p, fmt.Errorf("%w for %s; it was ended, its stack trace is above: please report it", errSilent, limits.silence))
			case so > total:
				return endProcess(p, fmt.Errorf("%w within %s; check the connection to the sources", errEndless, total))
			}
			limits.each()
		}
	}
}

// errSilent and errEndless are the errors for an attempt that has reached a limit.
var (
	errSilent  = errors.New("boot process: no line of output")
	errEndless = errors.New("boot process: not finished")
)

// endProcess ends a process that has reached a limit, and returns why.
func endProcess(p *process, why error) error {
	p.signal(unix.SIGQUIT)
	for range 2 {
		select {
		case <-p.ended:
			return why
		case <-time.After(killAfter):
			p.kill()
		}
	}
	select {
	case <-p.ended:
		return why
	default:
		return errStuck
	}
}

// timedWriter remembers when it was last written to.
type timedWriter struct {
	w     io.Writer
	began time.Time
	last  atomic.Int64 // since began, in nanoseconds
}

func (t *timedWriter) Write(p []byte) (int, error) {
	t.last.Store(int64(time.Since(t.began)))
	return t.w.Write(p)
}

// consolePaths returns the device paths of the kernel's consoles that exist in this machine.
// proc, sys and dev are the mount points of those file systems.
func consolePaths(proc, sys, dev string) []string {
	data, err := os.ReadFile(filepath.Join(proc, "consoles"))
	if err != nil {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		path := filepath.Join(dev, terminalName(sys, name))
		if name == "" || strings.HasPrefix(name, "ttynull") || !consolePresent(sys, name) || slices.Contains(paths, path) {
			continue
		}
		if _, err := os.Stat(path); err == nil { // netconsole has no device
			paths = append(paths, path)
		}
	}
	return paths
}

// terminalName returns the terminal of a console. Console tty0 is the virtual terminal that is
// in the foreground.
func terminalName(sys, console string) string {
	if console != "tty0" {
		return console
	}
	active, err := os.ReadFile(filepath.Join(sys, "class/tty/tty0/active"))
	if name := strings.TrimSpace(string(active)); err == nil && isScreen(name) {
		return name
	}
	return "tty1"
}
