package plasm

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	// killGrace is how long after the time limit the process may report the timeout itself,
	// before it is killed.
	killGrace = 300 * time.Millisecond

	// maxStderr is how much of the process's stderr is stored, in bytes.
	maxStderr = 8 << 10
)

// A Process runs each job in a new process: this program's own file, without a shell, without an
// environment, in its own process group. The process cannot gain privileges and dies with its parent.
// Both processes together use at most the job's memory limit and 64 MiB.
type Process struct {
	Args []string // argv with which this program calls Serve; the first is the program's name
}

// Run runs a job to its end, with its output to std as it comes. The kernel enforces the limits: memory
// by RLIMIT_DATA, time by SIGKILL shortly after the limit. A job that fails is an Outcome, and so is
// every other end of the process. An error means that the job did not run: its bytes are not a WASI
// command (cas.ErrCorrupt), the spec is out of range (fs.ErrInvalid), or ctx has ended.
func (p Process) Run(ctx context.Context, job Job, spec Spec, std IO) (Outcome, error) {
	if err := spec.Check(); err != nil {
		return Outcome{}, err
	}
	lim := spec.Limits
	started := time.Now()
	c, err := p.start()
	if err != nil {
		return Outcome{}, fmt.Errorf("job %q: process: %w", job.Name, err)
	}
	defer c.close()
	defer context.AfterFunc(ctx, func() { c.kill(ctx.Err()) })()
	defer time.AfterFunc(lim.Timeout+killGrace, func() { c.kill(errTimeout) }).Stop()

	go func() {
		defer c.request.Close()
		// An error means that the process ended early; its exit says why.
		_ = request{job.Name, int64(len(job.Module)), spec}.send(c.request, job.Module)
	}()
	a := &answer{limit: uint64(lim.Memory), out: newOutput(lim.Output, std, func(err error) { c.kill(err) })}
	if err := a.read(c.answer); err != nil {
		c.kill(err)
	}
	exit := c.wait()
	if err := ctx.Err(); err != nil {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if a.refusal != "" {
		return Outcome{}, refusal.New(cas.ErrCorrupt, "%s", a.refusal)
	}
	o := a.outcome(exit)
	o.Started, o.InputSHA256 = started, emptySHA256
	if took := time.Since(started); a.result == nil {
		o.Run = took
	} else {
		o.Compile = min(took, a.result.Compile)
		o.Run = took - o.Compile
	}
	return o, nil
}

// A child is a started process.
type child struct {
	request *os.File
	answer  *os.File
	stderr  *os.File
	pid     int

	mu     sync.Mutex
	reaped bool  // its process ID may belong to another process now
	killed error // why it was killed, nil if it was not

	done chan processExit
}

// A processExit is how a process ended.
type processExit struct {
	state  *os.ProcessState
	err    error
	killed error  // why plasmd killed it, nil if it did not
	stderr string // the first maxStderr bytes
}

func (p Process) start() (*child, error) {
	c := &child{done: make(chan processExit, 1)}
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
		process, err := startOn(p.Args, files)
		if err == nil {
			c.pid = process.Pid
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

// startOn starts the process from the calling thread.
func startOn(args []string, files []*os.File) (*os.Process, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("no new privileges: %w", err)
	}
	return os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
}

// pipes makes the files 0 to 4 of the process, which this process closes after the start, and the other
// ends of three of them.
func (c *child) pipes() (files []*os.File, err error) {
	null, errNull := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	var stderr, request, answer *os.File
	var errs [3]error
	c.stderr, stderr, errs[0] = os.Pipe()
	request, c.request, errs[1] = os.Pipe()
	c.answer, answer, errs[2] = os.Pipe()
	files = []*os.File{null, null, stderr, request, answer}
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

func (c *child) close() { closeAll([]*os.File{c.request, c.answer, c.stderr}) }

// kill kills the process group and records the first reason.
func (c *child) kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed == nil {
		c.killed = why
	}
	if !c.reaped {
		_ = unix.Kill(-c.pid, unix.SIGKILL) // fails only if all have ended
	}
}

// reap waits for the end of the process and sends its exit on done.
func (c *child) reap(process *os.Process) {
	stderr, _ := io.ReadAll(io.LimitReader(c.stderr, maxStderr)) // until it ends or the limit is reached
	go io.Copy(io.Discard, c.stderr)
	state, err := process.Wait()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	c.done <- processExit{state: state, err: err, stderr: string(stderr)}
}

func (c *child) wait() processExit {
	e := <-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	e.killed = c.killed
	return e
}

// An answer is the answer of the process. It is not trusted: every field is limited and checked.
type answer struct {
	limit   uint64
	peak    uint64
	out     *output
	result  *result
	refusal string // why the module is corrupt
}

// read reads frames up to the last one or the end of the stream.
func (a *answer) read(r io.Reader) error {
	var buf bytes.Buffer
	for a.result == nil && a.refusal == "" {
		kind, err := readFrame(r, &buf)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = a.take(kind, buf.Bytes())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take adds one frame to the answer.
func (a *answer) take(kind byte, payload []byte) error {
	switch kind {
	case frameStdout:
		_, err := a.out.stdout.Write(payload)
		return err
	case frameStderr:
		_, err := a.out.stderr.Write(payload)
		return err
	case framePeak:
		if len(payload) == 8 {
			a.peak = min(a.limit, max(a.peak, binary.BigEndian.Uint64(payload)))
		}
		return nil
	case frameRefusal:
		a.refusal = string(escape([]byte(capText(string(payload)))))
		return nil
	case frameResult:
		return a.parse(payload)
	}
	return fmt.Errorf("unknown frame %q", kind)
}

// parse reads a result and checks its fields.
func (a *answer) parse(payload []byte) error {
	var r result
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	if !knownReason(r.Reason) || r.Reason == ReasonKilled || r.ExitCode < NoExitCode || r.ExitCode > 1<<32-1 ||
		r.Reason == ReasonExit && r.ExitCode == NoExitCode || r.Compile < 0 || r.Run < 0 {
		return fmt.Errorf("result %.40q with exit code %d", r.Reason, r.ExitCode)
	}
	r.Detail = string(escape([]byte(capText(r.Detail))))
	a.result = &r
	return nil
}

// outcome returns the outcome by the exit of the process. A limit that was enforced comes first, because
// it explains all later symptoms.
func (a *answer) outcome(exit processExit) Outcome {
	o := Outcome{MemoryPeak: int64(a.peak), ExitCode: NoExitCode, Engine: EngineInterpreter, EngineVersion: EngineVersion()}
	a.out.into(&o)
	switch {
	case errors.Is(exit.killed, errOutput):
		o.Reason, o.Detail = ReasonOutput, errOutput.Error()
	case a.result != nil:
		o.Reason, o.Detail, o.ExitCode = a.result.Reason, a.result.Detail, a.result.ExitCode
		o.Output.Truncated = o.Output.Truncated || a.result.Truncated
	case errors.Is(exit.killed, errTimeout):
		o.Reason, o.Detail = ReasonTimeout, errTimeout.Error()+", and its process was killed"
	case outOfMemory(exit.stderr):
		o.Reason, o.Detail = ReasonMemory, errEngineMemory.Error()
	default:
		o.Reason, o.Detail = ReasonKilled, "the process that ran it ended without a result: "+exit.String()
	}
	return o
}

// outOfMemory reports whether a Go program's stderr says that it got no memory for its heap or for the
// stack of a thread.
func outOfMemory(stderr string) bool {
	return slices.ContainsFunc([]string{"out of memory", "cannot allocate memory", "pthread_create failed", "failed to create new OS thread"},
		func(message string) bool { return strings.Contains(stderr, message) })
}

// String describes the exit. It is safe to print on a terminal.
func (e processExit) String() string {
	parts := []string{}
	if e.err != nil {
		parts = append(parts, e.err.Error())
	} else {
		parts = append(parts, e.state.String())
	}
	if e.killed != nil {
		parts = append(parts, e.killed.Error())
	}
	if line, _, _ := strings.Cut(e.stderr, "\n"); line != "" {
		parts = append(parts, fmt.Sprintf("%.200q", line))
	}
	return strings.Join(parts, ": ")
}
