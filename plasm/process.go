package plasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	// killGrace is how long after the time limit the process may report the timeout itself,
	// before it is killed.
	killGrace = 300 * time.Millisecond

	// shortLimit is the longest time limit of a job that the interpreter runs if the job does not
	// choose. The compiler needs about 0.4 s for each MB of a module, the interpreter 0.1 s, and then
	// the code of the compiler is about 35 times faster.
	shortLimit = 30 * time.Second
)

// A Process runs each job in a new process: this program's own file, without a shell, without an
// environment, in its own process group. The process cannot gain privileges and dies with its parent.
// Both processes together use at most the job's memory limit, its scratch folder and 64 MiB.
type Process struct {
	Args    []string // argv with which this program calls Serve; the first is the program's name
	Cgroups *Cgroups // nil: resource limits only

	// Code stores compiled code. nil stores nothing: where no disk may be written to.
	Code *CodeCache
}

// Run runs a job to its end, with its output to std as it comes. The kernel enforces the limits: memory
// by RLIMIT_DATA and the job's control group, time by SIGKILL shortly after the limit. A job that fails is
// an Outcome, and so is every other end of the process. An error means that the job did not run: its bytes
// are not a WASI command or too many (cas.ErrCorrupt), the spec is out of range (fs.ErrInvalid), an
// artifact is missing (fs.ErrNotExist), or ctx has ended; then the Outcome has the engine, the durations, the
// processor time and the memory so far, and no reason. A Read of std.Stdin may go on after Run has returned.
func (p Process) Run(ctx context.Context, job Job, spec Spec, std IO) (Outcome, error) {
	if err := spec.Check(); err != nil {
		return Outcome{}, err
	}
	if n := len(job.Module); n > maxModule {
		return Outcome{}, refusal.New(cas.ErrCorrupt, "job %q: %d bytes, the limit of a module is %d; is this the right file?", job.Name, n, maxModule)
	}
	started := time.Now()
	cache := p.Code
	if spec.Engine == EngineInterpreter || codeRoom(int64(len(job.Module))) > spec.Limits.Memory/4 {
		cache = nil // the code is memory of the process that stores it, twice
	}
	code := cache.find(job)
	defer func() { code.close() }()
	spec.Engine = engineFor(spec, code != nil)
	if most := spec.Limits.Module; most > 0 && int64(len(job.Module)) > most {
		return notRun(job, spec, std, started, most), nil
	}
	artifacts, err := openArtifacts(job, spec, std)
	if err != nil {
		return Outcome{}, err
	}
	defer closeAll(artifacts)
	t := task{job: job, spec: spec, std: std, started: started, code: code}
	if spec.Engine == EngineCompiler && code == nil && cache.takes(job) {
		if o, ended, err := p.keep(ctx, &t); ended || err != nil {
			return o, err
		}
		code = t.code // to close it
	}
	return p.run(ctx, &t, artifacts)
}

// A task is what the process of a job has to do.
type task struct {
	job     Job
	spec    Spec // with an engine
	std     IO
	started time.Time
	used    time.Duration // processor time of an earlier process
	code    *cachedCode   // compiled code; nil for none
	keep    io.Writer     // takes the compiled code, and the job does not run; nil for a job that runs
	kept    bool          // the compiled code is complete
	said    bool          // the process has said how the job ended
}

// run runs the task in a new process.
func (p Process) run(ctx context.Context, t *task, artifacts []*os.File) (Outcome, error) {
	c, err := p.start(t.spec, artifacts)
	if err != nil {
		return Outcome{}, fmt.Errorf("job %q: process: %w", t.job.Name, err)
	}
	defer c.close()
	return c.run(ctx, t)
}

// keep compiles the module of a task in a process that does not run the job, stores the code and adds it to
// the task. If the job has ended with that, keep returns true with its outcome: a limit of time was
// reached, or it cannot run. If the code could not be made or stored, the job runs without it.
func (p Process) keep(ctx context.Context, t *task) (o Outcome, ended bool, err error) {
	first := *t
	first.spec.Grants, first.std = Grants{}, IO{}
	var failed error
	stored := p.Code.store(t.job, func(w io.Writer) error {
		first.keep = w
		if o, failed = p.run(ctx, &first, nil); failed == nil && !first.kept {
			failed = fmt.Errorf("%w: %s", errNoCode, o.Detail)
		}
		return failed
	})
	t.used = o.CPU
	switch {
	case stored == nil:
		t.code = p.Code.find(t.job)
		return o, false, nil
	case failed != nil && !errors.Is(failed, errNoCode): // not a command, or ctx has ended
		return o, true, failed
	case !first.kept && (first.said || o.Reason == ReasonTimeout || o.Reason == ReasonCPU || o.Reason == ReasonCompile):
		newOutput(0, t.std, nil).into(&o)
		return o, true, nil
	}
	p.Code.log.Info("cache of compiled code: not stored", "cause", stored)
	return o, false, nil
}

// engineFor returns the engine of a job. Code that was compiled before starts faster than the interpreter.
func engineFor(spec Spec, compiled bool) string {
	switch {
	case spec.Engine != "":
		return spec.Engine
	case compiled, spec.Limits.Timeout > shortLimit:
		return EngineCompiler
	default:
		return EngineInterpreter
	}
}

// notRun returns the outcome of a job whose module is too large.
func notRun(job Job, spec Spec, std IO, started time.Time, most int64) Outcome {
	o := Outcome{
		Started: started, Compile: time.Since(started), ExitCode: NoExitCode,
		Reason: ReasonModule, Detail: fmt.Sprintf("%v: %d bytes, the limit is %d", errModule, len(job.Module), most),
		InputSHA256: emptySHA256, Engine: spec.Engine, EngineVersion: EngineVersion(),
	}
	newOutput(0, std, nil).into(&o)
	return o
}

// emptySHA256 is the SHA-256 of no bytes.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// openArtifacts opens the artifacts that the job asks for, in the order of the spec.
func openArtifacts(job Job, spec Spec, std IO) (files []*os.File, err error) {
	for _, role := range spec.Grants.Artifacts {
		if std.Artifacts == nil {
			err = fmt.Errorf("no release is at hand: %w", fs.ErrNotExist)
		} else {
			var f *os.File
			if f, err = std.Artifacts(role); err == nil {
				files = append(files, f)
			}
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("job %q: artifact %q: %w", job.Name, role, err)
		}
	}
	return files, nil
}

// run sends the job to the process and waits for its end. The limits of time count from the start of the
// task.
func (c *child) run(ctx context.Context, t *task) (Outcome, error) {
	job, spec, lim := t.job, t.spec, t.spec.Limits
	if lim.CPU > 0 {
		lim.CPU = max(lim.CPU-t.used, time.Millisecond)
	}
	before := time.Since(t.started)
	defer context.AfterFunc(ctx, func() { c.kill(ctx.Err()) })()
	grace := killGrace
	if spec.Engine == EngineCompiler { // its code does not stop itself
		grace = 0
	}
	defer time.AfterFunc(lim.Timeout+grace-before, func() { c.kill(errTimeout) }).Stop()
	if lim.CPU > 0 {
		stop := make(chan struct{})
		defer close(stop)
		go c.watchCPU(lim.CPU, stop)
	}
	compiling := time.AfterFunc(lim.compile()-before, func() { c.kill(errCompile) })
	defer compiling.Stop()

	go func() {
		// An error means that the process ended early; its exit says why. The pipe stays open: its
		// end tells the process that this one has died.
		mounts, _ := os.Readlink(mountNamespace)
		q := request{job.Name, job.SHA256, int64(len(job.Module)), spec, mounts, 0, t.keep != nil}
		if t.code != nil {
			q.Code = t.code.size
		}
		_ = q.send(c.request, job.Module, t.code)
	}()
	given := c.feed(spec, t.std)
	began, isolation := time.Time{}, []string{}
	a := &answer{
		limit: uint64(lim.Memory),
		out:   newOutput(lim.Output, t.std, func(err error) { c.kill(err) }),
		code:  t.keep,
		onBegin: func(b beginning) {
			compiling.Stop()
			began, isolation = time.Now(), b.Isolation
		},
	}
	if err := a.read(c.answer); err != nil {
		c.kill(err)
	}
	exit := c.wait()
	if err := ctx.Err(); err != nil {
		o := Outcome{Engine: spec.Engine, EngineVersion: EngineVersion(), CPU: exit.cpu() + t.used, MemoryPeak: int64(a.peak)}
		o.took(t.started, a.begun, began)
		return o, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if a.refusal != "" {
		return Outcome{}, refusal.New(cas.ErrCorrupt, "%s", a.refusal)
	}
	t.kept, t.said = a.kept, a.result != nil
	o := a.outcome(exit, lim)
	o.CPU += t.used
	o.Started, o.Isolation = t.started, slices.Concat(c.isolation, isolation)
	o.Engine, o.EngineVersion = spec.Engine, EngineVersion()
	o.took(t.started, a.begun, began)
	input := given()
	if a.result != nil && a.result.Input != (Output{}) {
		input = a.result.Input
	}
	o.InputSHA256, o.InputLength = input.SHA256, input.Length
	return o, nil
}

// took sets the durations of a job that has ended now.
func (o *Outcome) took(started time.Time, begun bool, began time.Time) {
	o.Compile = time.Since(started)
	if begun {
		o.Run = time.Since(began)
		o.Compile -= o.Run
	}
}

// compile returns the limit from the start to the first instruction.
func (l Limits) compile() time.Duration {
	if l.Compile > 0 {
		return l.Compile
	}
	return l.Timeout + time.Hour // the time limit comes first
}

// feed copies stdin to the process, and returns a function that describes what was copied so far.
func (c *child) feed(spec Spec, std IO) (given func() Output) {
	if !spec.Grants.Stdin || std.Stdin == nil {
		c.stdin.Close()
		return func() Output { return Output{SHA256: emptySHA256} }
	}
	d := lockedDigest{digest: newDigest()}
	go func() {
		defer c.stdin.Close()
		_, _ = io.Copy(io.MultiWriter(c.stdin, &d), std.Stdin) // the job sees the end of the input
	}()
	return d.sum
}
