package plasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

// File descriptors of the process that runs a job, after stdin, stdout and stderr. The artifacts of the
// job follow, in the order of the spec.
const (
	fdRequest = 3
	fdAnswer  = 4
	fdMore    = 5
)

// Serve is the main function of the process that Process.Run starts: it reads the request from file
// descriptor 3, limits this process permanently, runs the job and writes the answer to file
// descriptor 4. No other process may call it.
func Serve(ctx context.Context) error {
	in, out := os.NewFile(fdRequest, "request"), os.NewFile(fdAnswer, "answer")
	for _, f := range []*os.File{in, out} {
		if info, err := f.Stat(); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
			return fmt.Errorf("engine: %s is not a pipe: only plasmd itself starts this; use 'plasmd run'", f.Name())
		}
	}
	return serve(ctx, in, &frames{w: out}, &sandbox{request: in})
}

// serve reads and answers one request.
func serve(ctx context.Context, in io.Reader, out *frames, box *sandbox) error {
	q, module, code, err := receive(in)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	mem := &meter{limit: uint64(q.Spec.Limits.Memory), onPeak: out.peak}
	if err := box.enter(q, code, mem); err != nil {
		return err
	}
	if q.Keep && box.code == nil {
		return errNoCode
	}
	h := host{
		stdin: os.Stdin, stdout: out.stdout(), stderr: out.stderr(), mem: mem,
		artifacts: map[string]*os.File{}, code: box.code,
		begin: func() error {
			if q.Keep {
				return box.keep(out)
			}
			debug.SetGCPercent(running)
			if err := box.seal(); err != nil {
				return err
			}
			return out.sendJSON(frameBegin, beginning{box.reached})
		},
	}
	for i, role := range q.Spec.Grants.Artifacts {
		h.artifacts[role] = os.NewFile(uintptr(fdMore+i), role)
	}
	o, err := runHere(ctx, Job{Name: q.Name, Module: module, SHA256: q.SHA256}, q.Spec, h)
	if errors.Is(err, errKept) {
		return out.send(frameKept, nil)
	}
	if errors.Is(err, cas.ErrCorrupt) {
		return out.send(frameRefusal, []byte(capText(err.Error())))
	}
	if err != nil {
		return err
	}
	return out.sendJSON(frameResult, result{
		Reason: o.Reason, Detail: capText(o.Detail), ExitCode: o.ExitCode,
		StdoutCut: o.Stdout.Truncated, StderrCut: o.Stderr.Truncated,
		Input: Output{SHA256: o.InputSHA256, Length: o.InputLength},
	})
}

// A sandbox confines this process in two steps: before the module is compiled, and before it runs.
type sandbox struct {
	request *os.File
	engine  string
	growth  int64       // largest single growth of the heap, in bytes
	code    *codeFolder // compiled code; nil for none
	maps    *os.File    // memory of this process
	reached []string    // Isolation constants
}

// enter limits this process and separates it from the host. code has the compiled code of the request.
func (b *sandbox) enter(q request, code io.Reader, mem *meter) error {
	b.engine, b.growth = q.Spec.Engine, q.growth()
	if err := confine(q, mem); err != nil {
		return fmt.Errorf("limits of the process: %w", err)
	}
	var err error
	if b.maps, err = os.Open("/proc/self/maps"); err != nil {
		return err
	}
	b.reached = isolate(q.Mounts, q.room(), func() {
		if b.code, err = newCodeFolder(code, q.Code); err == nil {
			b.code.give(nobody)
		} // without the folder, and where no namespace allows it, the module is compiled again
	})
	if err := dieWithParent(b.request); err != nil {
		return err
	}
	var files []string
	if b.code != nil {
		files = fileCalls
	}
	if filter(b.engine == EngineCompiler, b.growth, files...) == nil {
		b.reached = append(b.reached, IsolationSeccomp)
	}
	return nil
}

// errKept means that the code was sent and that the job is not to run here.
var errKept = errors.New("the code was sent")

// keep sends the compiled code, before the first instruction of the job.
func (b *sandbox) keep(out *frames) error {
	if err := b.code.send(out.code()); err != nil {
		return err
	}
	return errKept
}

// seal takes away what only the compiler needs. Its code does not count as data any more, so that the
// limit of memory becomes lower by its size.
func (b *sandbox) seal() error {
	if b.engine != EngineCompiler {
		return nil
	}
	if b.code != nil {
		b.code.clear()
		if err := lower(unix.RLIMIT_FSIZE, 0); err != nil {
			return err
		}
	}
	code, err := codeSize(b.maps)
	if err != nil {
		return err
	}
	if err := lessData(code); err != nil {
		return err
	}
	if slices.Contains(b.reached, IsolationSeccomp) {
		return filter(false, b.growth)
	}
	return nil
}

// maxText is the maximum length of a text in an answer, in bytes.
const maxText = 600

func capText(text string) string { return text[:min(len(text), maxText)] }
