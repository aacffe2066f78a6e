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
)

const (
	// killGrace is how long after the time limit the process may take to say that it
	// ran into it, before it is killed.
	killGrace = 300 * time.Millisecond

	// maxDying bounds what is kept of a dying process's last words, in bytes.
	maxDying = 8 << 10
)

// A Process runs a job in a process of its own. It is started anew for each job, from
// this program's own file, without a shell, without an environment, in a process group
// of its own; it can gain no rights and dies with this process. This process and that
// one together take at most the job's memory limit and 64 MiB.
type Process struct {
	Args []string // argv with which this program calls Serve; the first is its name
}

// Run is as the function Run, with limits that the kernel keeps: memory by RLIMIT_DATA,
// time by SIGKILL shortly after the limit. However the process ends, there is an Outcome.
func (p Process) Run(ctx context.Context, job Job, lim Limits, w io.Writer) (Outcome, error) {
	if err := lim.Check(); err != nil {
		return Outcome{}, err
	}
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
		// A process that ended early reads no further; how it ended says why.
		_ = request{job.Name, int64(len(job.Module)), lim}.send(c.request, job.Module)
	}()
	shown := &console{w: w}
	a := &answer{limit: uint64(lim.Memory), out: newOutput(lim.Output, shown, func(err error) { c.kill(err) })}
	if err := a.read(c.answer); err != nil {
		c.kill(err)
	}
	end := c.wait()
	shown.close()
	if err := ctx.Err(); err != nil {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if a.refusal != "" {
		return Outcome{}, refusal(a.refusal)
	}
	o := a.outcome(end)
	o.Started, o.Duration = started, time.Since(started)
	return o, nil
}

// A refusal is cas.ErrCorrupt in the words of the process.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == cas.ErrCorrupt }

// A child is a started process.
type child struct {
	request *os.File
	answer  *os.File
	dying   *os.File // its stderr
	pid     int

	mu     sync.Mutex
	ended  bool  // it was waited for: its number may be another's
	killed error // why it was killed; nil when it was not

	done chan ending
}

// An ending is how a process ended.
type ending struct {
	state  *os.ProcessState
	err    error
	killed error  // why we killed it; nil when we did not
	words  string // what it wrote to stderr
}

// start starts the process.
func (p Process) start() (*child, error) {
	c := &child{done: make(chan ending, 1)}
	pipes, theirs, err := c.pipes()
	if err != nil {
		return nil, err
	}
	defer closeAll(theirs)
	up := make(chan error)
	go func() {
		// The process gets its parent-death signal when this thread ends, and inherits
		// this thread's promise to gain no rights: the thread is its own, for good.
		runtime.LockOSThread()
		process, err := startOn(p.Args, pipes)
		if err == nil {
			c.pid = process.Pid
		}
		up <- err
		if err == nil {
			c.reap(process)
		}
	}()
	if err := <-up; err != nil {
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

// pipes makes the process's files 0 to 4, and returns those of them that are to be
// closed here once it runs.
func (c *child) pipes() (files, theirs []*os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = []*os.File{null}
	pipe := func(parentReads bool) (ours, other *os.File) {
		r, w, e := os.Pipe()
		if e != nil {
			err = e
			return nil, nil
		}
		if parentReads {
			ours, other = r, w
		} else {
			ours, other = w, r
		}
		theirs = append(theirs, other)
		return ours, other
	}
	dying, stderr := pipe(true)
	ask, stdin := pipe(false)
	reply, stdout := pipe(true)
	c.dying, c.request, c.answer = dying, ask, reply
	if err != nil {
		closeAll(theirs)
		c.close()
		return nil, nil, err
	}
	return []*os.File{null, null, stderr, stdin, stdout}, theirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// close closes our ends of the pipes.
func (c *child) close() { closeAll([]*os.File{c.request, c.answer, c.dying}) }

// kill ends the process and whatever it started, and remembers the first reason.
func (c *child) kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed == nil {
		c.killed = why
	}
	if !c.ended {
		_ = unix.Kill(-c.pid, unix.SIGKILL) // gone already is what is wanted
	}
}

// reap waits for the process and reports how it ended.
func (c *child) reap(process *os.Process) {
	words, _ := io.ReadAll(io.LimitReader(c.dying, maxDying)) // until it ends, or says too much
	go io.Copy(io.Discard, c.dying)
	state, err := process.Wait()
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.done <- ending{state: state, err: err, words: string(words)}
}

// wait waits until the process has ended.
func (c *child) wait() ending {
	e := <-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	e.killed = c.killed
	return e
}

// An answer is what came from the process. It is not trusted: everything is bounded
// and checked again.
type answer struct {
	limit   uint64
	peak    uint64
	out     *output
	result  *result
	refusal string
}

// read reads frames until the last one, or until there are none.
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

func (a *answer) take(kind byte, payload []byte) error {
	switch kind {
	case frameOutput:
		_, err := a.out.Write(payload)
		return err
	case framePeak:
		if len(payload) == 8 {
			a.peak = min(a.limit, max(a.peak, binary.BigEndian.Uint64(payload)))
		}
		return nil
	case frameRefusal:
		a.refusal = string(escape([]byte(cut(string(payload)))))
		return nil
	case frameResult:
		return a.parse(payload)
	}
	return fmt.Errorf("unknown frame %q", kind)
}

// parse takes a result whose fields are possible ones.
func (a *answer) parse(payload []byte) error {
	var r result
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	if !knownReason(r.Reason) || r.Reason == ReasonKilled || r.ExitCode < NoExitCode || r.ExitCode > 1<<32-1 ||
		r.Reason == ReasonExit && r.ExitCode == NoExitCode {
		return fmt.Errorf("result %.40q with exit code %d", r.Reason, r.ExitCode)
	}
	r.Detail = string(escape([]byte(cut(r.Detail))))
	a.result = &r
	return nil
}

// outcome puts the end of the process into words. What we did to it comes first: it
// explains the rest.
func (a *answer) outcome(end ending) Outcome {
	o := Outcome{MemoryPeak: int64(a.peak), ExitCode: NoExitCode, Output: a.out.sum()}
	switch {
	case errors.Is(end.killed, errOutput):
		o.Reason, o.Detail = ReasonOutput, errOutput.Error()
	case a.result != nil:
		o.Reason, o.Detail, o.ExitCode = a.result.Reason, a.result.Detail, a.result.ExitCode
		o.Output.Truncated = o.Output.Truncated || a.result.Truncated
	case errors.Is(end.killed, errTimeout):
		o.Reason, o.Detail = ReasonTimeout, errTimeout.Error()+", and its process was killed"
	case outOfMemory(end.words):
		o.Reason, o.Detail = ReasonMemory, errEngineMemory.Error()
	default:
		o.Reason, o.Detail = ReasonKilled, "the process that ran it ended without a result: "+end.String()
	}
	return o
}

// outOfMemory reports whether a Go program's last words are that it got no memory: for its
// heap, or for the stack of a thread.
func outOfMemory(words string) bool {
	return slices.ContainsFunc([]string{"out of memory", "cannot allocate memory", "pthread_create failed", "failed to create new OS thread"},
		func(said string) bool { return strings.Contains(words, said) })
}

// String says how the process ended, in words that are safe to show.
func (e ending) String() string {
	words := []string{}
	if e.err != nil {
		words = append(words, e.err.Error())
	} else {
		words = append(words, e.state.String())
	}
	if e.killed != nil {
		words = append(words, e.killed.Error())
	}
	if line, _, _ := strings.Cut(e.words, "\n"); line != "" {
		words = append(words, fmt.Sprintf("%.200q", line))
	}
	return strings.Join(words, ": ")
}
