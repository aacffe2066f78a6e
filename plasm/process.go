package plasm

import (
	"context"
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
}

// Run runs a job to its end, with its output to std as it comes. The kernel enforces the limits: memory
// by RLIMIT_DATA and the job's control group, time by SIGKILL shortly after the limit. A job that fails is
// an Outcome, and so is every other end of the process. An error means that the job did not run: its bytes
// are not a WASI command or too many (cas.ErrCorrupt), the spec is out of range (fs.ErrInvalid), an
// artifact is missing (fs.ErrNotExist), or ctx has ended. A Read of std.Stdin may go on after Run has
// returned.
func (p Process) Run(ctx context.Context, job Job, spec Spec, std IO) (Outcome, error) {
	if err := spec.Check(); err != nil {
		return Outcome{}, err
	}
	if n := len(job.Module); n > maxModule {
		return Outcome{}, refusal.New(cas.ErrCorrupt, "job %q: %d bytes, the limit of a module is %d; is this the right file?", job.Name, n, maxModule)
	}
	spec.Engine = engineFor(spec)
	started := time.Now()
	if most := spec.Limits.Module; most > 0 && int64(len(job.Module)) > most {
		return notRun(job, spec, std, started, most), nil
	}
	artifacts, err := openArtifacts(job, spec, std)
	if err != nil {
		return Outcome{}, err
	}
	defer closeAll(artifacts)
	c, err := p.start(spec, artifacts)
	if err != nil {
		return Outcome{}, fmt.Errorf("job %q: process: %w", job.Name, err)
	}
	defer c.close()
	return c.run(ctx, job, spec, std, started)
}

// engineFor returns the engine of a job.
func engineFor(spec Spec) string {
	switch {
	case spec.Engine != "":
		return spec.Engine
	case spec.Limits.Timeout > shortLimit:
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

// run sends the job to the process and waits for its end.
func (c *child) run(ctx context.Context, job Job, spec Spec, std IO, started time.Time) (Outcome, error) {
	lim := spec.Limits
	defer context.AfterFunc(ctx, func() { c.kill(ctx.Err()) })()
	grace := killGrace
	if spec.Engine == EngineCompiler { // its code does not stop itself
		grace = 0
	}
	defer time.AfterFunc(lim.Timeout+grace, func() { c.kill(errTimeout) }).Stop()
	if lim.CPU > 0 {
		stop := make(chan struct{})
		defer close(stop)
		go c.watchCPU(lim.CPU, stop)
	}
	compiling := time.AfterFunc(lim.compile(), func() { c.kill(errCompile) })
	defer compiling.Stop()

	go func() {
		// An error means that the process ended early; its exit says why. The pipe stays open: its
		// end tells the process that this one has died.
		mounts, _ := os.Readlink(mountNamespace)
		_ = request{job.Name, job.SHA256, int64(len(job.Module)), spec, mounts}.send(c.request, job.Module)
	}()
	given := c.feed(spec, std)
	began, isolation := time.Time{}, []string{}
	a := &answer{
		limit: uint64(lim.Memory),
		out:   newOutput(lim.Output, std, func(err error) { c.kill(err) }),
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
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if a.refusal != "" {
		return Outcome{}, refusal.New(cas.ErrCorrupt, "%s", a.refusal)
	}
	o := a.outcome(exit, lim)
	o.Started, o.Isolation = started, slices.Concat(c.isolation, isolation)
	o.Engine, o.EngineVersion = spec.Engine, EngineVersion()
	o.Compile = time.Since(started)
	if a.begun {
		o.Run = time.Since(began)
		o.Compile -= o.Run
	}
	input := given()
	if a.result != nil && a.result.Input != (Output{}) {
		input = a.result.Input
	}
	o.InputSHA256, o.InputLength = input.SHA256, input.Length
	return o, nil
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
