package plasm

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/phaseboot/phaseboot/cas"
)

// errSandbox means that the process could not be confined; the job did not run.
var errSandbox = errors.New("sandbox")

// A host is what runHere gives to a job.
type host struct {
	stdin     io.Reader
	stdout    io.Writer
	stderr    io.Writer
	mem       *meter
	artifacts map[string]*os.File // by role
	begin     func() error        // called when the code of the job is ready; nil for nothing
	code      *codeFolder         // compiled code; nil for none
}

// runHere runs a job to its end in this process. A job that fails is an Outcome. An error means that the
// job did not run: its bytes are not a WASI command (cas.ErrCorrupt), or ctx has ended. runHere cannot
// stop a long sequence of instructions without calls and loops, cannot stop the code of the compiler at
// all, and limits the memory of the engine only roughly; Process.Run does these.
func runHere(ctx context.Context, job Job, spec Spec, h host) (Outcome, error) {
	guest, end := context.WithCancelCause(ctx)
	defer end(nil)
	guest, stop := context.WithTimeoutCause(guest, spec.Limits.Timeout, errTimeout)
	defer stop()

	spec.Engine = cmp.Or(spec.Engine, EngineInterpreter)
	r := &run{job: job, spec: spec, host: h, clock: clock{real: spec.Grants.Clock}, input: newDigest()}
	r.out = newOutput(spec.Limits.Output, IO{Stdout: h.stdout, Stderr: h.stderr}, func(err error) {
		end(err)
		// The engine unwinds the guest's stack, and Call returns this error.
		panic(sys.NewExitError(sys.ExitCodeContextCanceled))
	})
	started := time.Now()
	if r.err = r.prepare(); r.err == nil {
		if spec.Engine == EngineInterpreter {
			go watchHost(guest, hostExtra(len(job.Module)), end)
		}
		r.err = r.execute(guest)
	}
	took := time.Since(started)
	if err := ctx.Err(); err != nil {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if errors.Is(r.err, cas.ErrCorrupt) || errors.Is(r.err, errSandbox) {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, r.err)
	}
	o := r.outcome(context.Cause(guest))
	o.Started, o.Run = started, took
	return o, nil
}

type run struct {
	host
	job     Job
	spec    Spec
	module  []byte // the module without custom sections
	clock   clock
	out     *output
	input   digest // of what the job read on stdin
	scratch *folder
	err     error // of execute; nil and most *sys.ExitError mean that the job exited
}

// prepare refuses a module that needs too much memory before its first instruction.
func (r *run) prepare() error {
	declared, err := lint(r.job.Module)
	if err != nil {
		return err
	}
	r.module = declared.module
	if most := r.spec.Limits.Memory; declared.memory > most {
		return fmt.Errorf("%w: %d bytes of memory, the limit is %d", errTooLarge, declared.memory, most)
	}
	if declared.table > maxTable {
		return fmt.Errorf("%w: a table of %d entries, the limit is %d", errTable, declared.table, maxTable)
	}
	r.mem.reserve(declared.memory)
	return nil
}

// execute compiles the module and calls its _start. The engine panics on some modules.
func (r *run) execute(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil && r.mem.refused.Load() {
			err = errEngineMemory
		} else if v != nil {
			err = fmt.Errorf("the engine failed: %v", v)
		}
	}()
	ctx = experimental.WithMemoryAllocator(ctx, r.mem)
	if r.spec.Engine == EngineInterpreter {
		ctx = new(guard).watch(ctx)
	}
	config := config(r.spec.Engine)
	if r.code != nil {
		config = config.WithCompilationCache(r.code.cache)
	}
	engine := wazero.NewRuntimeWithConfig(ctx, config)
	defer engine.Close(context.WithoutCancel(ctx))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, engine); err != nil {
		return fmt.Errorf("WASI: %w", err)
	}
	module, err := engine.CompileModule(ctx, r.module)
	if err != nil && r.code != nil { // the cause may be its file, which must not change the outcome
		r.code.clear()
		module, err = engine.CompileModule(ctx, r.module)
	}
	if err != nil {
		return fmt.Errorf("%.300q: %w", firstLine(err), cas.ErrCorrupt)
	}
	if _, ok := module.ExportedFunctions()["_start"]; !ok {
		return fmt.Errorf("the module exports no _start: %w; build it as a command with a main function, not as a library", cas.ErrCorrupt)
	}
	if err := checkImports(module, engine.Module(wasi_snapshot_preview1.ModuleName)); err != nil {
		return err
	}
	grants, err := r.grants(ctx)
	if err != nil {
		return err
	}
	if r.scratch != nil {
		defer r.scratch.close()
	}
	if r.begin != nil {
		if err := r.begin(); err != nil {
			return fmt.Errorf("%w: %w", errSandbox, err)
		}
	}
	guest, err := engine.InstantiateModule(ctx, module, grants)
	if err != nil && strings.Contains(err.Error(), "not instantiated") { // a table or a global of another module
		return fmt.Errorf("%w: %.200q", errImport, firstLine(err))
	}
	if err != nil {
		return err
	}
	_, err = guest.ExportedFunction("_start").Call(ctx)
	return err
}

// config returns the configuration of an engine, without reference types. They would let a module grow a
// table, whose entries are host memory. Code of the compiler does not check whether ctx has ended: a
// check in each loop makes it eight times slower, and Process.Run kills its process.
func config(engine string) wazero.RuntimeConfig {
	c := wazero.NewRuntimeConfigInterpreter().WithCloseOnContextDone(true)
	if engine == EngineCompiler {
		c = wazero.NewRuntimeConfigCompiler()
	}
	return c.
		WithDebugInfoEnabled(false).
		WithCoreFeatures(api.CoreFeaturesV2.SetEnabled(api.CoreFeatureReferenceTypes, false))
}

// grants returns what the job may use. The zero value of wazero's configuration grants nothing.
func (r *run) grants(ctx context.Context) (wazero.ModuleConfig, error) {
	c := wazero.NewModuleConfig().WithStartFunctions().
		WithStdout(&r.out.stdout).WithStderr(&r.out.stderr).
		WithArgs(append([]string{r.job.Name}, r.spec.Args...)...)
	for _, name := range slices.Sorted(maps.Keys(r.spec.Env)) {
		c = c.WithEnv(name, r.spec.Env[name])
	}
	if r.spec.Grants.Stdin && r.stdin != nil {
		c = c.WithStdin(io.TeeReader(r.stdin, &r.input))
	}
	c = r.clock.configure(ctx, c)
	if r.spec.Grants.Random {
		c = c.WithRandSource(rand.Reader)
	} else {
		c = c.WithRandSource(fixedRandom(r.job.SHA256))
	}
	folders := wazero.NewFSConfig().(sysfs.FSConfig)
	if size := r.spec.Grants.Scratch; size > 0 {
		scratch, err := newScratch(size, r.clock.now)
		if err != nil {
			return nil, fmt.Errorf("%w: no room for the scratch folder of %d bytes", errEngineMemory, size)
		}
		r.scratch = scratch
		folders = folders.WithSysFSMount(scratch, "/scratch").(sysfs.FSConfig)
	}
	if len(r.artifacts) > 0 {
		artifacts, err := newArtifacts(r.artifacts, r.clock.now)
		if err != nil {
			return nil, fmt.Errorf("artifacts: %w", err)
		}
		folders = folders.WithSysFSMount(artifacts, "/artifacts").(sysfs.FSConfig)
	}
	return c.WithFSConfig(folders.(wazero.FSConfig)), nil
}

// checkImports refuses a module that imports anything except functions of WASI.
func checkImports(m wazero.CompiledModule, wasi api.Module) error {
	calls := wasi.ExportedFunctionDefinitions()
	for _, f := range m.ImportedFunctions() {
		from, fn, _ := f.Import()
		if _, ok := calls[fn]; from != wasi.Name() || !ok {
			return fmt.Errorf("function %.60q of %.60q: %w", fn, from, errImport)
		}
	}
	for _, mem := range m.ImportedMemories() {
		from, what, _ := mem.Import()
		return fmt.Errorf("memory %.60q of %.60q: %w", what, from, errImport)
	}
	return nil
}

// outcome returns the outcome of the run. A limit that was enforced comes first, because it explains all
// later symptoms.
func (r *run) outcome(cause error) Outcome {
	o := Outcome{
		MemoryPeak: int64(r.mem.peak.Load()),
		ExitCode:   NoExitCode,
		Engine:     r.spec.Engine, EngineVersion: EngineVersion(),
	}
	r.out.into(&o)
	read := r.input.sum(false)
	o.InputSHA256, o.InputLength = read.SHA256, read.Length
	var exit *sys.ExitError
	exited := errors.As(r.err, &exit)
	switch {
	case r.out.truncated:
		o.Reason, o.Detail = ReasonOutput, errOutput.Error()
	case exited && cause != nil && stopped(exit.ExitCode()):
		o.Reason, o.Detail = reasonOf(cause), cause.Error()
	case exited:
		o.Reason, o.ExitCode = ReasonExit, int64(exit.ExitCode())
		o.Detail = fmt.Sprintf("exit code %d", o.ExitCode)
	case r.err == nil:
		o.Reason, o.ExitCode = ReasonExit, 0
	default:
		o.Reason, o.Detail = reasonOf(r.err), r.err.Error()
	}
	switch o.Reason {
	case ReasonTrap:
		o.Detail = fmt.Sprintf("%.300q", strings.TrimPrefix(firstLine(r.err), "wasm error: ")) // text of the engine with names from the module
	case ReasonStack:
		o.Detail = errStack.Error()
	}
	if failed := !o.OK() && (o.Reason == ReasonExit || o.Reason == ReasonTrap); failed && r.mem.refused.Load() {
		o.Reason, o.Detail = ReasonMemory, "it asked for more memory than its limit, and ended with "+o.Detail
	} else if failed && r.scratch != nil && r.scratch.full {
		o.Reason, o.Detail = ReasonScratch, "its scratch folder was full, and it ended with "+o.Detail
	}
	return o
}

// stopped reports whether an exit code is one of those that the engine uses after the context has ended.
// A module may exit with the same codes, so the caller must check the context too.
func stopped(code uint32) bool {
	return code == sys.ExitCodeContextCanceled || code == sys.ExitCodeDeadlineExceeded
}

// firstLine returns an error of the engine without its stack trace, which has names from the module.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
