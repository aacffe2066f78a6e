package plasm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/cas"
)

// File descriptors of the process that runs a job, after stdin, stdout and stderr.
const (
	fdRequest = 3
	fdAnswer  = 4
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
	return serve(ctx, in, &frames{w: out}, confine)
}

// serve reads and answers one request.
func serve(ctx context.Context, in io.Reader, out *frames, confine func(Limits, int, *meter) error) error {
	q, module, err := receive(in)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	mem := &meter{limit: uint64(q.Spec.Limits.Memory), onPeak: out.peak}
	if err := confine(q.Spec.Limits, len(module), mem); err != nil {
		return fmt.Errorf("limits of the process: %w", err)
	}
	o, err := runHere(ctx, Job{Name: q.Name, Module: module}, q.Spec, IO{Stdout: out.stdout(), Stderr: out.stderr()}, mem)
	if errors.Is(err, cas.ErrCorrupt) {
		return out.send(frameRefusal, []byte(capText(err.Error())))
	}
	if err != nil {
		return err
	}
	answer, err := json.Marshal(result{
		Reason: o.Reason, Detail: capText(o.Detail), ExitCode: o.ExitCode, Truncated: o.Output.Truncated,
		Engine: o.Engine, Compile: o.Compile, Run: o.Run,
	})
	if err != nil {
		return err
	}
	return out.send(frameResult, answer)
}

// maxText is the maximum length of a text in an answer, in bytes.
const maxText = 600

func capText(text string) string { return text[:min(len(text), maxText)] }
