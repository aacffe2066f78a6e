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

// drainLimit is how long the jump waits until slow consoles have printed the last lines.
const drainLimit = 5 * time.Second

// consoles is the list of terminals that the kernel prints on and that exist in this machine:
// the screen and serial lines. Write prints on each of them, or on stdout before the first
// refresh. It is safe for concurrent use.
type consoles struct {
	paths func() []string // paths of the terminals, see consolePaths

	mu   sync.Mutex
	list []*terminal
}

// refresh updates the list: a driver that was loaded may have added a screen. It returns the
// paths for the report.
func (c *consoles) refresh() (summary string) {
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

// Write prints on every console. It never fails and never waits for a console.
func (c *consoles) Write(p []byte) (int, error) {
	list := c.terminals()
	if len(list) == 0 {
		_, _ = os.Stdout.Write(p)
	}
	for _, t := range list {
		t.print(p)
	}
	return len(p), nil
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

// run starts a program, prints its output on every console, and waits for its end. Ctrl-C on
// any console interrupts the program.
func (c *consoles) run(path string, argv []string) (unix.WaitStatus, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	var pid int
	started := make(chan struct{})
	interrupt := func() {
		<-started
		if pid > 0 {
			_ = unix.Kill(pid, unix.SIGINT)
		}
	}
	var stops []func()
	for _, t := range c.terminals() { // before the program starts, so that no Ctrl-C is lost
		stops = append(stops, t.onCtrlC(interrupt))
	}
	stop := sync.OnceFunc(func() {
		for _, stop := range stops {
			stop()
		}
	})
	defer stop()
	pid, err = spawnQuiet(path, argv, w)
	close(started)
	w.Close()
	if err != nil {
		return 0, err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(c, r)
	}()
	ws, err := reap(pid)
	stop() // before the number of the process can belong to another
	<-copied
	return ws, err
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
