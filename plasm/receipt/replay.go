package receipt

import (
	"errors"
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm"
)

// ErrDiffers says that a replay had another result.
var ErrDiffers = errors.New("the replay differs")

// slower is how much slower than the machine a replay may run.
const slower = 10

// Replay returns the job and the spec of a new run of the job with its module and input. Bytes that are not those
// of the receipt wrap cas.ErrCorrupt; the input may have more bytes than the job read. A job that can end in another way each time wraps fs.ErrInvalid: one with a
// clock, random numbers or artifacts, and one that a limit of time or a person ended.
func (s Signed) Replay(job plasm.Job, input []byte) (plasm.Job, plasm.Spec, error) {
	run := s.Run
	switch {
	case !run.Spec.Deterministic():
		return job, plasm.Spec{}, refusal.Invalid("receipt: the job had the clock or random numbers of its machine, so no second run is the same; do without --replay")
	case len(run.Spec.Grants.Artifacts) > 0:
		return job, plasm.Spec{}, refusal.Invalid("receipt: the job read artifacts of its release, which a replay does not have; do without --replay")
	case !repeatable(run.Reason):
		return job, plasm.Spec{}, refusal.Invalid("receipt: the job ended by %q, which depends on its machine; do without --replay", run.Reason)
	case job.SHA256 != run.Module.SHA256:
		return job, plasm.Spec{}, refusal.New(cas.ErrCorrupt, "module: sha256 %s, and the receipt has %s; name the module that ran", job.SHA256, run.Module.SHA256)
	case !run.Input.Begins(input):
		return job, plasm.Spec{}, refusal.New(cas.ErrCorrupt, "input: it does not begin with the %d bytes that the job read, with sha256 %s; name the input of the job with --input", run.Input.Length, run.Input.SHA256)
	}
	spec := run.Spec
	spec.Engine = run.Engine.Name
	spec.Limits.Timeout = min(slower*spec.Limits.Timeout, 24*time.Hour)
	spec.Limits.CPU = min(slower*spec.Limits.CPU, 24*time.Hour)
	spec.Limits.Compile = min(slower*spec.Limits.Compile, 24*time.Hour)
	job.Name = run.Name
	return job, spec, nil
}

// repeatable reports whether a second run ends for the same reason.
func repeatable(reason string) bool {
	switch reason {
	case plasm.ReasonExit, plasm.ReasonOutput, plasm.ReasonScratch, plasm.ReasonStack, plasm.ReasonTable, plasm.ReasonModule,
		plasm.ReasonImport, plasm.ReasonTrap, plasm.ReasonBounds:
		return true
	}
	return false
}

// Differs compares the outcome of a replay with the receipt. An error wraps ErrDiffers.
func (s Signed) Differs(o plasm.Outcome) error {
	run := s.Run
	switch {
	case o.Reason != run.Reason:
		return differs("it ended by %q (%s), and the receipt has %q", o.Reason, o.Detail, run.Reason)
	case o.ExitCode != run.ExitCode:
		return differs("exit code %d, and the receipt has %d", o.ExitCode, run.ExitCode)
	}
	for _, out := range []struct {
		name string
		is   plasm.Output
	}{{Stdout, o.Stdout}, {Stderr, o.Stderr}} {
		if want := s.Output(out.name); out.is != want {
			return differs("%s: %s, and the receipt has %s", out.name, textOf(out.is), textOf(want))
		}
	}
	return nil
}

// textOf describes an output for a person.
func textOf(o plasm.Output) string {
	cut := ""
	if o.Truncated {
		cut = ", cut off at the limit,"
	}
	return fmt.Sprintf("%d bytes%s with sha256 %s", o.Length, cut, o.SHA256)
}

func differs(format string, args ...any) error {
	return refusal.New(ErrDiffers, "replay: %s", fmt.Sprintf(format, args...))
}
