package machine

import (
	"context"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient"
)

// A step is one named part of a boot. Its words say what was done, on one line.
type step struct {
	name  string
	fatal bool // an error ends the attempt; otherwise it is said and the boot goes on
	run   func(ctx context.Context) (words string, err error)
}

// runSteps runs a table in order and tells each result. It returns the first
// error of a fatal step, with the step's name in front.
func runSteps(ctx context.Context, story *bootclient.Report, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		told := story.Begin(s.name)
		words, err := s.run(ctx)
		switch {
		case err == nil:
			told.Done("%s", words)
		case s.fatal:
			return fmt.Errorf("%s: %w", s.name, told.Fail(err))
		default:
			_ = told.Fail(fmt.Errorf("%w (the boot goes on without it)", err))
		}
	}
	return nil
}
