package machine

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// environment is the environment of every process that PID 1 starts.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}

// children are the processes that PID 1 started and that have not ended.
type children struct {
	// orphans says to reap every process that ends. PID 1 inherits the children of processes that
	// end, and nobody else reaps those.
	orphans bool

	mu      sync.Mutex // held to start and to reap, so that no exit is missed
	running map[int]*process
}

// A process is a child. ended is closed when it has ended; status is valid then.
type process struct {
	pid    int
	ended  chan struct{}
	status unix.WaitStatus

	kids *children
}

// newChildren begins to reap. It ends when stop is closed.
func newChildren(orphans bool, stop <-chan struct{}) *children {
	c := &children{orphans: orphans, running: map[int]*process{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals: // one signal may stand for several processes
				c.reap()
			case <-stop:
				return
			}
		}
	}()
	return c
}

// start starts a process with a function that returns its ID.
func (c *children) start(spawn func() (pid int, err error)) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := spawn()
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, ended: make(chan struct{}), kids: c}
	c.running[pid] = p
	return p, nil
}

// reap reaps every process that has ended.
func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.orphans {
		for c.reapOne(-1) {
		}
		return
	}
	for pid := range c.running {
		c.reapOne(pid)
	}
}

// reapOne reaps one process. It reports false if none has ended.
func (c *children) reapOne(which int) bool {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(which, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return false
		}
		if p := c.running[pid]; p != nil {
			delete(c.running, pid)
			p.status = status
			close(p.ended)
		}
		return true
	}
}

// signal sends a signal to the process. After its end it sends nothing: the number may belong to another
// process.
func (p *process) signal(s unix.Signal) {
	p.kids.mu.Lock()
	defer p.kids.mu.Unlock()
	if p.kids.running[p.pid] == p {
		_ = unix.Kill(p.pid, s)
	}
}

// kill ends the process and the processes of its group.
func (p *process) kill() {
	p.kids.mu.Lock()
	defer p.kids.mu.Unlock()
	if p.kids.running[p.pid] == p {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

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
