package machine

import (
	"errors"
	"maps"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// environment is the environment of every process that PID 1 starts.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}

// spawn starts a program on a terminal, as leader of its own session, so that Ctrl-C reaches the
// program and not PID 1. If the terminal cannot control a session, the session has none.
func spawn(path string, argv []string, tty *os.File) (pid int, err error) {
	fd := tty.Fd()
	attr := &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{fd, fd, fd},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}
	if pid, err = syscall.ForkExec(path, argv, attr); err == nil {
		return pid, nil
	}
	attr.Sys = &syscall.SysProcAttr{Setsid: true}
	return syscall.ForkExec(path, argv, attr)
}

// spawnQuiet starts a program without a terminal, in a session of its own. Its stdin is empty; its
// stdout and stderr are out.
func spawnQuiet(path string, argv []string, out *os.File) (pid int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// reap waits for a child to end. It also reaps all others that end in the meantime, because PID 1
// inherits every orphan.
func reap(pid int) (unix.WaitStatus, error) {
	for {
		got, ws, err := reapOne()
		if err != nil || got == pid {
			return ws, err
		}
	}
}

// reapOne waits for any child to end.
func reapOne() (pid int, ws unix.WaitStatus, err error) {
	for {
		pid, err = unix.Wait4(-1, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return pid, ws, err
		}
	}
}

// A childExit is the exit of a child process.
type childExit struct {
	pid    int
	status unix.WaitStatus
}

// reapEach sends the exit of each child on the channel. It closes the channel after the last exit
// and after stop is closed.
func reapEach(pids map[int]bool, stop <-chan struct{}) <-chan childExit {
	left := maps.Clone(pids)
	out := make(chan childExit, len(left))
	go func() {
		defer close(out)
		for len(left) > 0 {
			pid, ws, err := reapOne()
			if err != nil {
				break
			}
			if left[pid] {
				delete(left, pid)
				out <- childExit{pid, ws}
			}
		}
		<-stop
	}()
	return out
}
