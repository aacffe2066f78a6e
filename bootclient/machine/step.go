package machine

import (
	"context"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient"
)

// A rule says what a step's error means, and who tells the step.
type rule int

const (
	goOn  rule = iota // an error is told and the boot goes on without the step
	fatal             // an error ends the attempt
	own               // fatal, and the step tells its story itself
)

// A step is one named part of a boot. Its words say what was done, on one line.
type step struct {
	name string
	rule rule
	run  func(ctx context.Context) (words string, err error)
}

// runSteps runs a table in order and tells each result. It returns the first
// error of a fatal step, with the step's name in front.
func runSteps(ctx context.Context, story *bootclient.Report, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.do(ctx, story); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (s step) do(ctx context.Context, story *bootclient.Report) error {
	if s.rule == own {
		words, err := s.run(ctx)
		if err == nil {
			story.Say("%s: %s", s.name, words)
		}
		return err
	}
	told := story.Begin(s.name)
	words, err := s.run(ctx)
	switch {
	case err == nil:
		told.Done("%s", words)
	case s.rule == fatal:
		return told.Fail(err)
	default:
		_ = told.Fail(fmt.Errorf("%w (the boot goes on without it)", err))
	}
	return nil
}
