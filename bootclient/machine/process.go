package machine

import (
	"errors"
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

// reap waits for one child and, because PID 1 inherits every orphan, for all
// others that end in the meantime.
func reap(pid int) (unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return ws, err
		case got == pid:
			return ws, nil
		}
	}
}
