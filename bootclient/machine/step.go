package machine

import (
	"context"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A failurePolicy says what an error of a step means, and whether runSteps reports the step.
type failurePolicy int

const (
	optional      failurePolicy = iota // an error is reported and the boot continues without the step
	required                           // an error ends the attempt
	selfReporting                      // required; the step reports its start, parts and error itself
)

// A step is one named part of a boot. run returns a summary of one line for the report.
type step struct {
	name      string
	onFailure failurePolicy
	run       func(ctx context.Context) (summary string, err error)
}

// runSteps runs the steps in order and reports each result. It returns the first error of a
// required step, prefixed with the step's name.
func runSteps(ctx context.Context, rep *report.Report, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.do(ctx, rep); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (s step) do(ctx context.Context, rep *report.Report) error {
	if s.onFailure == selfReporting {
		summary, err := s.run(ctx)
		if err == nil {
			rep.Say("%s: %s", s.name, summary)
		}
		return err
	}
	entry := rep.Begin(s.name)
	summary, err := s.run(ctx)
	switch {
	case err == nil:
		entry.Done("%s", summary)
	case s.onFailure == required:
		return entry.Fail(err)
	default:
		entry.FailOptional(fmt.Errorf("%w (the boot continues without it)", err))
	}
	return nil
}
