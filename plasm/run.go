package plasm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/phaseboot/phaseboot/cas"
)

// Reasons for the end of a job, as in a receipt.
const (
	ReasonExit    = "exit"    // the job exited; see the exit code
	ReasonTimeout = "timeout" // the time limit was reached
	ReasonMemory  = "memory"  // memory was refused and the job failed, or it needs too much to start, or its process ran out of memory
	ReasonOutput  = "output"  // the output limit was reached
	ReasonImport  = "import"  // the module imports something that is not granted; it did not run
	ReasonTrap    = "trap"    // a WebAssembly trap: unreachable, out of bounds, stack overflow
	ReasonBounds  = "bounds"  // the module declares more than a job may; it did not run
	ReasonKilled  = "killed"  // the process that ran it ended without a result
)

// NoExitCode is the exit code of a job that did not exit.
const NoExitCode = -1

// An Outcome is the result of one run of a job.
type Outcome struct {
	Started       time.Time
	Wait          time.Duration // from the acceptance to the start; set by a caller that has a queue
	Fetch         time.Duration // of it, for the module; set by a caller that fetches
	Compile       time.Duration // check and compilation of the module, and the start of the process
	Run           time.Duration // the rest
	MemoryPeak    int64         // bytes of linear memory, high-water
	CPU           time.Duration // processor time of the job's process
	ExitCode      int64         // 0 to 2^32-1, or NoExitCode
	Reason        string        // one of the Reason constants
	Detail        string        // explains the reason to a person; quoted and capped
	Stdout        Output
	Stderr        Output
	Output        Output // both, in the order of writing
	InputSHA256   string // of what the job could read on stdin, 64 lower-case hex digits
	Engine        string // EngineInterpreter or EngineCompiler
	EngineVersion string
}

// Duration returns how long the job took, as the host measured it, compilation included.
func (o Outcome) Duration() time.Duration { return o.Compile + o.Run }

// emptySHA256 is the SHA-256 of no bytes.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Output describes what a job wrote.
type Output struct {
	SHA256    string `json:"sha256"` // 64 lower-case hex digits
	Length    int64  `json:"length"` // bytes
	Truncated bool   `json:"truncated"`
}

// OK reports whether the job exited with code 0.
func (o Outcome) OK() bool { return o.Reason == ReasonExit && o.ExitCode == 0 }

// runHere runs a job to its end in this process and copies its output to std. A job that fails is an
// Outcome. An error means that the job did not run: its bytes are not a WASI command (cas.ErrCorrupt),
// or ctx has ended. runHere cannot stop a long sequence of instructions without calls and loops, and
// limits the memory of the engine only roughly; Process.Run does both.
func runHere(ctx context.Context, job Job, spec Spec, std IO, mem *meter) (Outcome, error) {
	lim := spec.Limits
	guest, end := context.WithCancelCause(ctx)
	defer end(nil)
	guest, stop := context.WithTimeoutCause(guest, lim.Timeout, errTimeout)
	defer stop()

	r := &run{job: job, spec: spec, mem: mem, out: newOutput(lim.Output, std, end)}
	started := time.Now()
	if r.err = r.prepare(lim); r.err == nil {
		go watchHost(guest, hostExtra(len(job.Module)), end)
		r.err = r.execute(guest)
	}
	took := time.Since(started)
	if err := ctx.Err(); err != nil {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	if errors.Is(r.err, cas.ErrCorrupt) {
		return Outcome{}, fmt.Errorf("job %q: %w", job.Name, r.err)
	}
	o := r.outcome(context.Cause(guest))
	o.Started, o.Run, o.InputSHA256 = started, took, emptySHA256
	return o, nil
}

var (
	errTimeout  = errors.New("the job reached its time limit")
	errTooLarge = errors.New("the module starts with more than its limit allows")
	errImport   = errors.New("the module imports something that is not granted")

	errEngineMemory = errors.New("the module's code, stack and memory together need more than the memory limit; raise it by about 25 bytes for each byte of the module")
)

type run struct {
	job    Job
	spec   Spec
	module []byte // the module without custom sections
	mem    *meter
	out    *output
	err    error // of execute; nil and most *sys.ExitError mean that the job exited
}

// prepare refuses a module that needs too much memory before its first instruction.
func (r *run) prepare(lim Limits) error {
	declared, err := lint(r.job.Module)
	if err != nil {
		return err
	}
	r.module = declared.module
	if declared.memory > lim.Memory {
		return fmt.Errorf("%w: %d bytes of memory, the limit is %d", errTooLarge, declared.memory, lim.Memory)
	}
	if declared.table > maxTable {
		return fmt.Errorf("%w: a table of %d entries, the limit is %d", errTooLarge, declared.table, maxTable)
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
	ctx = new(guard).watch(experimental.WithMemoryAllocator(ctx, r.mem))
	engine := wazero.NewRuntimeWithConfig(ctx, config())
	defer engine.Close(context.WithoutCancel(ctx))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, engine); err != nil {
		return fmt.Errorf("WASI: %w", err)
	}
	module, err := engine.CompileModule(ctx, r.module)
	if err != nil {
		return fmt.Errorf("%.300q: %w", firstLine(err), cas.ErrCorrupt)
	}
	if _, ok := module.ExportedFunctions()["_start"]; !ok {
		return fmt.Errorf("the module exports no _start: %w; build it as a WASI command", cas.ErrCorrupt)
	}
	if err := checkImports(module, engine.Module(wasi_snapshot_preview1.ModuleName)); err != nil {
		return err
	}
	guest, err := engine.InstantiateModule(ctx, module, wazero.NewModuleConfig().
		WithStdout(&r.out.stdout).WithStderr(&r.out.stderr).WithArgs(append([]string{r.job.Name}, r.spec.Args...)...).WithStartFunctions())
	if err != nil && strings.Contains(err.Error(), "not instantiated") { // a table or a global of another module
		return fmt.Errorf("%w: %.200q", errImport, firstLine(err))
	}
	if err != nil {
		return err
	}
	_, err = guest.ExportedFunction("_start").Call(ctx)
	return err
}

// config returns the configuration of the engine: the interpreter, without reference types. They would
// let a module grow a table, whose entries are host memory.
func config() wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigInterpreter().
		WithCloseOnContextDone(true).
		WithDebugInfoEnabled(false).
		WithCoreFeatures(api.CoreFeaturesV2.SetEnabled(api.CoreFeatureReferenceTypes, false))
}

// checkImports refuses a module that imports anything except functions of WASI.
func checkImports(m wazero.CompiledModule, wasi api.Module) error {
	calls := wasi.ExportedFunctionDefinitions()
	for _, f := range m.ImportedFunctions() {
		from, fn, _ := f.Import()
		if _, ok := calls[fn]; from != wasi.Name() || !ok {
			return fmt.Errorf("%w: function %.60q of %.60q", errImport, fn, from)
		}
	}
	for _, mem := range m.ImportedMemories() {
		from, what, _ := mem.Import()
		return fmt.Errorf("%w: memory %.60q of %.60q", errImport, what, from)
	}
	return nil
}

// outcome returns the outcome of the run. A limit that was enforced comes first, because it explains all
// later symptoms.
func (r *run) outcome(cause error) Outcome {
	o := Outcome{
		MemoryPeak:    int64(r.mem.peak.Load()),
		ExitCode:      NoExitCode,
		Engine:        EngineInterpreter,
		EngineVersion: EngineVersion(),
	}
	r.out.into(&o)
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
	if o.Reason == ReasonTrap {
		o.Detail = fmt.Sprintf("%.300q", firstLine(r.err)) // text of the engine with names from the module
	}
	if r.mem.refused.Load() && !o.OK() && (o.Reason == ReasonExit || o.Reason == ReasonTrap) {
		o.Reason, o.Detail = ReasonMemory, "it asked for more memory than its limit, and ended with "+o.Detail
	}
	return o
}

// stopped reports whether an exit code is one of those that the engine uses after the context has ended.
// A module may exit with the same codes, so the caller must check the context too.
func stopped(code uint32) bool {
	return code == sys.ExitCodeContextCanceled || code == sys.ExitCodeDeadlineExceeded
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, errTimeout):
		return ReasonTimeout
	case errors.Is(err, errHostMemory), errors.Is(err, errTooLarge), errors.Is(err, errEngineMemory):
		return ReasonMemory
	case errors.Is(err, errImport):
		return ReasonImport
	case errors.Is(err, errBounds):
		return ReasonBounds
	default:
		return ReasonTrap
	}
}

// firstLine returns an error of the engine without its stack trace, which has names from the module.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
