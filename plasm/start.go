package plasm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxStderr is how much of the process's stderr is stored, in bytes.
const maxStderr = 8 << 10

// A child is a started process.
type child struct {
	stdin     *os.File
	request   *os.File
	answer    *os.File
	stderr    *os.File
	pid       int
	isolation []string // Isolation constants that the start has reached
	group     *cgroup  // nil without one

	mu     sync.Mutex
	reaped bool  // its process ID may belong to another process now
	killed error // why it was killed, nil if it was not

	done chan processExit
}

// start starts the process for a job. more are its files after the first ones.
func (p Process) start(spec Spec, more []*os.File) (*child, error) {
	c := &child{done: make(chan processExit, 1), group: p.Cgroups.job(spec)}
	files, err := c.pipes()
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	started := make(chan error)
	go func() {
		// The process gets its parent-death signal when this thread ends, and inherits the
		// thread's no_new_privs. So the thread stays locked until the process has ended.
		runtime.LockOSThread()
		process, grouped, err := c.startOn(p.Args, append(files[:len(files):len(files)], more...))
		if err == nil {
			c.pid = process.Pid
			c.join(grouped)
		}
		started <- err
		if err == nil {
			c.reap(process)
		}
	}()
	if err := <-started; err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// startOn starts the process from the calling thread, and reports whether it started in its group. The
// kernel, or a supervisor of this process, may allow no start in a group (seccomp cannot look into
// clone3), and no namespaces.
func (c *child) startOn(args []string, files []*os.File) (process *os.Process, grouped bool, err error) {
	for _, attr := range c.group.attrs() {
		if process, err = startOn(args, files, attr); err == nil {
			return process, attr.UseCgroupFD, nil
		}
	}
	return nil, false, err
}

// join moves the process into its group, unless it started there. It has no request yet, so nothing of the
// job has run.
func (c *child) join(grouped bool) {
	if c.group == nil {
		return
	}
	if !grouped && c.group.add(c.pid) != nil {
		c.group.remove()
		c.group = nil
		return
	}
	c.isolation = append(c.isolation, IsolationCgroup)
}

// ownNamespaces returns the attributes of a process with a network and mounts of its own. Without root's
// rights, it needs a user namespace.
func ownNamespaces() syscall.SysProcAttr {
	attr := syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// startOn starts the process from the calling thread.
func startOn(args []string, files []*os.File, attr syscall.SysProcAttr) (*os.Process, error) {
	attr.Setpgid, attr.Pdeathsig = true, syscall.SIGKILL
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("no new privileges: %w", err)
	}
	return os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files,
		Sys: &attr,
	})
}

// pipes makes the first files of the process, which this process closes after the start, and the other
// ends of four of them.
func (c *child) pipes() (files []*os.File, err error) {
	null, errNull := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	var stdin, stderr, request, answer *os.File
	var errs [4]error
	stdin, c.stdin, errs[0] = os.Pipe()
	c.stderr, stderr, errs[1] = os.Pipe()
	request, c.request, errs[2] = os.Pipe()
	c.answer, answer, errs[3] = os.Pipe()
	files = []*os.File{stdin, null, stderr, request, answer}
	if err := errors.Join(append(errs[:], errNull)...); err != nil {
		closeAll(files)
		c.close()
		return nil, err
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() // harmless for nil
	}
}

func (c *child) close() {
	closeAll([]*os.File{c.stdin, c.request, c.answer, c.stderr})
	c.group.remove()
}

// kill kills the process group and records the first reason.
func (c *child) kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed == nil {
		c.killed = why
	}
	if !c.reaped {
		_ = unix.Kill(-c.pid, unix.SIGKILL) // fails only if all have ended
		c.group.kill()
	}
}

// watchCPU kills the process when it has used more processor time than its limit.
func (c *child) watchCPU(limit time.Duration, stop <-chan struct{}) {
	for {
		used, ok := c.cpu()
		if !ok {
			return
		}
		if used >= limit {
			c.kill(errCPU)
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(max(5*time.Millisecond, (limit-used)/engineThreads)):
		}
	}
}

// cpu returns the processor time that the process has used so far, or false if it has ended.
func (c *child) cpu() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return 0, false
	}
	// The clock of another process (clock_getcpuclockid(3)): the inverted process ID, and 2 for the
	// time that its threads ran.
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^c.pid<<3|2), &now); err != nil {
		return 0, false
	}
	return time.Duration(now.Nano()), true
}

// reap waits for the end of the process and sends its exit on done.
func (c *child) reap(process *os.Process) {
	stderr, _ := io.ReadAll(io.LimitReader(c.stderr, maxStderr)) // until it ends or the limit is reached
	go io.Copy(io.Discard, c.stderr)
	state, err := process.Wait()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	e := processExit{stderr: string(stderr), outOfMemory: c.group.outOfMemory()}
	if err != nil {
		e.text = err.Error()
	} else {
		status := state.Sys().(syscall.WaitStatus)
		e.state, e.usage, e.text = &status, *state.SysUsage().(*syscall.Rusage), state.String()
	}
	c.done <- e
}

func (c *child) wait() processExit {
	e := <-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	e.killed = c.killed
	return e
}
