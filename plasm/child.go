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

// File descriptors of the process that runs a job, beside its standard ones.
const (
	fdRequest = 3
	fdAnswer  = 4
)

// Serve is the other end of Process.Run: it takes the request from file descriptor 3,
// confines this process for good, runs the job and answers on file descriptor 4. Only a
// process that Process.Run started may call it.
func Serve(ctx context.Context) error {
	in, out := os.NewFile(fdRequest, "request"), os.NewFile(fdAnswer, "answer")
	for _, f := range []*os.File{in, out} {
		if info, err := f.Stat(); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
			return fmt.Errorf("engine: %s is not a pipe: only plasmd itself starts this; use 'plasmd run'", f.Name())
		}
	}
	return serve(ctx, in, &frames{w: out}, confine)
}

// serve answers one request.
func serve(ctx context.Context, in io.Reader, out *frames, confine func(Limits, int, *meter) error) error {
	q, module, err := receive(in)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	mem := &meter{limit: uint64(q.Limits.Memory), grown: out.peak}
	if err := confine(q.Limits, len(module), mem); err != nil {
		return fmt.Errorf("limits of the process: %w", err)
	}
	o, err := runHere(ctx, Job{Name: q.Name, Module: module}, q.Limits, out, mem)
	if errors.Is(err, cas.ErrCorrupt) {
		return out.send(frameRefusal, []byte(cut(err.Error())))
	}
	if err != nil {
		return err
	}
	answer, err := json.Marshal(result{o.Reason, cut(o.Detail), o.ExitCode, o.Output.Truncated})
	if err != nil {
		return err
	}
	return out.send(frameResult, answer)
}

// maxWords bounds the words of an outcome, in bytes.
const maxWords = 600

func cut(words string) string { return words[:min(len(words), maxWords)] }
