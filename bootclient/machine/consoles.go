package machine

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainLimit is how long a jump waits for the last lines to leave slow consoles.
const drainLimit = 5 * time.Second

// consoles are all terminals on which the kernel prints and which are in this machine:
// the screen, serial lines. What is written goes to each of them; before the first find
// it goes to stdout. It is safe for concurrent use.
type consoles struct {
	paths func() []string // of the terminals, see consolePaths

	mu   sync.Mutex
	list []*terminal
}

// find looks for the terminals again: a screen may have come with a driver.
func (c *consoles) find() (words string) {
	paths := c.paths()
	c.mu.Lock()
	defer c.mu.Unlock()
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
			kept = append(kept, newTerminal(path))
		}
	}
	c.list = kept
	if len(paths) == 0 {
		return "none: no screen and no serial port"
	}
	return strings.Join(paths, " ")
}

func (c *consoles) terminals() []*terminal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// Write prints on every console. It never fails and never waits for one.
func (c *consoles) Write(p []byte) (int, error) {
	list := c.terminals()
	if len(list) == 0 {
		_, _ = os.Stdout.Write(p)
	}
	for _, t := range list {
		t.put(p)
	}
	return len(p), nil
}

// drain waits until all that was written has left the devices, or drainLimit is over:
// the jump would cut it off.
func (c *consoles) drain() {
	late := time.After(drainLimit)
	list := c.terminals()
	answers := make(chan struct{}, len(list))
	asked := 0
	for _, t := range list {
		select {
		case t.queue <- chunk{answer: answers}:
			asked++
		default:
		}
	}
	for range asked {
		select {
		case <-answers:
		case <-late:
			return
		}
	}
}

// run starts a program of ours whose output goes to every console, and waits for its
// end. Ctrl-C on any of them interrupts it.
func (c *consoles) run(path string, argv []string) (unix.WaitStatus, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	pid, err := spawnQuiet(path, argv, w)
	w.Close()
	if err != nil {
		return 0, err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(c, r)
	}()
	var stops []func()
	for _, t := range c.terminals() {
		stops = append(stops, t.keys(func() { _ = unix.Kill(pid, unix.SIGINT) }))
	}
	ws, err := reap(pid)
	for _, stop := range stops {
		stop()
	}
	<-copied
	return ws, err
}

// consolePaths returns the devices of the kernel's consoles that are in this machine.
// proc and sys are where those file systems are mounted.
func consolePaths(proc, sys, dev string) []string {
	data, err := os.ReadFile(filepath.Join(proc, "consoles"))
	if err != nil {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		path := filepath.Join(dev, terminalName(sys, name))
		if name == "" || strings.HasPrefix(name, "ttynull") || !consoleWorks(sys, name) || slices.Contains(paths, path) {
			continue
		}
		if _, err := os.Stat(path); err == nil { // netconsole has no device
			paths = append(paths, path)
		}
	}
	return paths
}

// terminalName is the terminal that a console shows: tty0 is whichever is in front.
func terminalName(sys, console string) string {
	if console != "tty0" {
		return console
	}
	front, err := os.ReadFile(filepath.Join(sys, "class/tty/tty0/active"))
	if name := strings.TrimSpace(string(front)); err == nil && isScreen(name) {
		return name
	}
	return "tty1"
}
