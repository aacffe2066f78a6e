package machine

import (
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	// retryPause is the time between two attempts on a machine without a console; it doubles
	// up to retryMaxPause.
	retryPause    = 30 * time.Second
	retryMaxPause = 5 * time.Minute
	// minShellTime is the shortest run of a shell that counts as left by a person. A shell
	// that ends sooner has lost its terminal.
	minShellTime = time.Second
)

// shellProgram lists the shells to try on a console, in order.
var shellProgram = []string{"/bin/busybox", "/bin/sh"}

// A recovery is the time between two attempts of a boot, with a shell on every console.
type recovery struct {
	out      *consoles
	retry    <-chan struct{} // requests of phase-boot retry
	watcher  []string        // a command that exits with 0 when another attempt may succeed; nil for none
	pause    time.Duration   // before the next attempt if no console has a shell
	minShell time.Duration   // minShellTime
}

// wait opens a shell on every console. It returns when a person leaves one of them, when
// phase-boot retry asks for the next attempt, when the watcher exits with 0, or, if no console
// has a shell, after the pause.
func (r recovery) wait() {
	shells, watcher := r.openShells(), r.startWatcher()
	alive := maps.Clone(shells)
	if watcher > 0 {
		alive[watcher] = true
	}
	stop := make(chan struct{})
	exits := reapEach(alive, stop)
	r.waitForEnd(shells, alive, watcher, exits)
	for pid := range alive {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	close(stop)
	for range exits { // until all are reaped
	}
	for _, c := range r.out.terminals() {
		sane(c.path)
	}
}

// waitForEnd waits for one of the events that end the recovery. It removes children that exit
// from shells and alive.
func (r recovery) waitForEnd(shells, alive map[int]bool, watcher int, exits <-chan childExit) {
	started := time.Now()
	var pauseOver <-chan time.Time
	if len(shells) == 0 {
		pauseOver = time.After(r.pause)
	}
	for {
		select {
		case e := <-exits:
			delete(alive, e.pid)
			delete(shells, e.pid)
			switch {
			case e.pid == watcher && e.status != 0:
			case e.pid == watcher, time.Since(started) >= r.minShell:
				return
			case len(shells) == 0:
				pauseOver = time.After(r.pause)
			}
		case <-r.retry:
			return
		case <-pauseOver:
			return
		}
	}
}

// openShells starts a shell on every console and returns their process IDs.
func (r recovery) openShells() map[int]bool {
	pids := map[int]bool{}
	for _, c := range r.out.terminals() {
		pid, err := openShell(c.path)
		if err != nil {
			fmt.Fprintf(r.out, "phase-boot: shell on %s: %s\n", c.path, report.Printable(err.Error()))
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

// startWatcher starts the watcher and returns its process ID, 0 for none.
func (r recovery) startWatcher() int {
	if len(r.watcher) == 0 {
		return 0
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer null.Close()
	pid, err := spawnQuiet(r.watcher[0], r.watcher, null)
	if err != nil {
		fmt.Fprintf(r.out, "phase-boot: %s: %s\n", r.watcher[0], report.Printable(err.Error()))
		return 0
	}
	return pid
}
