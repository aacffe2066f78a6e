package machine

import (
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// retryPause is the time between two attempts on a machine where nobody can type; it
	// doubles up to retryMaxPause.
	retryPause    = 30 * time.Second
	retryMaxPause = 5 * time.Minute
	// leastTyped is the least time that a shell runs which a person left. One that ends
	// sooner had a terminal that hung up.
	leastTyped = time.Second
)

// shellProgram is what runs on the consoles after a refusal, the first that is there.
var shellProgram = []string{"/bin/busybox", "/bin/sh"}

// A turn is the time between two attempts of a boot.
type turn struct {
	out   *consoles
	retry <-chan struct{} // somebody asks for the next attempt: phase-boot retry
	watch []string        // the program that ends with status 0 when it may help; nil for none
	pause time.Duration   // where no shell can be opened
	typed time.Duration   // see leastTyped
}

// wait opens a shell on every console and returns when one of them is left, when the
// next attempt is asked for, or when the watcher says that it may help. Where no console
// takes a shell it returns after the pause.
func (t turn) wait() {
	shells, watcher := t.open(), t.startWatcher()
	alive := maps.Clone(shells)
	if watcher > 0 {
		alive[watcher] = true
	}
	stop := make(chan struct{})
	gone := reapEach(alive, stop)
	t.untilOver(shells, alive, watcher, gone)
	for pid := range alive {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	close(stop)
	for range gone { // until all are reaped
	}
	for _, c := range t.out.terminals() {
		sane(c.path)
	}
}

func (t turn) untilOver(shells, alive map[int]bool, watcher int, gone <-chan ended) {
	started := time.Now()
	var unseen <-chan time.Time
	if len(shells) == 0 {
		unseen = time.After(t.pause)
	}
	for {
		select {
		case e := <-gone:
			delete(alive, e.pid)
			delete(shells, e.pid)
			switch {
			case e.pid == watcher && e.status != 0:
			case e.pid == watcher, time.Since(started) >= t.typed:
				return
			case len(shells) == 0:
				unseen = time.After(t.pause)
			}
		case <-t.retry:
			return
		case <-unseen:
			return
		}
	}
}

// open starts the shells and returns their process IDs.
func (t turn) open() map[int]bool {
	pids := map[int]bool{}
	for _, c := range t.out.terminals() {
		pid, err := openShell(c.path)
		if err != nil {
			fmt.Fprintf(t.out, "phase-boot: shell on %s: %s\n", c.path, printable(err.Error()))
			continue
		}
		pids[pid] = true
	}
	return pids
}

// openShell starts a shell on a terminal, in a session of its own.
func openShell(terminal string) (pid int, err error) {
	tty, err := os.OpenFile(terminal, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	for _, program := range shellProgram {
		if pid, err = spawn(program, []string{"sh"}, tty); err == nil {
			return pid, nil
		}
		err = fmt.Errorf("%s: %w", program, err)
	}
	return 0, err
}

// startWatcher returns the watcher's process ID, 0 where there is none.
func (t turn) startWatcher() int {
	if len(t.watch) == 0 {
		return 0
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer null.Close()
	pid, err := spawnQuiet(t.watch[0], t.watch, null)
	if err != nil {
		fmt.Fprintf(t.out, "phase-boot: %s: %s\n", t.watch[0], printable(err.Error()))
		return 0
	}
	return pid
}
