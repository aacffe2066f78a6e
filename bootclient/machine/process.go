package machine

import (
	"errors"
	"maps"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// environment of every process that PID 1 starts.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}

// spawn starts a program on a terminal, as leader of its own session, so that
// Ctrl-C reaches it and not PID 1. A console that cannot control a session is
// used without.
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

// spawnQuiet starts a program without a terminal, in a session of its own. It reads
// nothing; its output and errors go to out.
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

// reap waits for one child and, because PID 1 inherits every orphan, for all
// others that end in the meantime.
func reap(pid int) (unix.WaitStatus, error) {
	for {
		got, ws, err := reapOne()
		if err != nil || got == pid {
			return ws, err
		}
	}
}

func reapOne() (pid int, ws unix.WaitStatus, err error) {
	for {
		pid, err = unix.Wait4(-1, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return pid, ws, err
		}
	}
}

// ended is a child that is no more.
type ended struct {
	pid    int
	status unix.WaitStatus
}

// reapEach sends each of the children on the channel when it has ended, and closes the
// channel after the last of them. With no child it closes the channel when stop is closed.
func reapEach(pids map[int]bool, stop <-chan struct{}) <-chan ended {
	left := maps.Clone(pids)
	out := make(chan ended, len(left))
	go func() {
		defer close(out)
		for len(left) > 0 {
			pid, ws, err := reapOne()
			if err != nil {
				break
			}
			if left[pid] {
				delete(left, pid)
				out <- ended{pid, ws}
			}
		}
		<-stop
	}()
	return out
}
