package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// After Ctrl-C the table does not say that a job is lost that goes on.
func TestTheStateOfAnAttempt(t *testing.T) {
	stopped := fmt.Errorf("m: %w", context.Canceled)
	for want, a := range map[string]attempt{
		"interrupted":  {err: stopped},
		"goes on":      {job: api.Job{ID: "1", State: api.StateQueued}, err: stopped},
		"no answer":    {err: cas.ErrUnreachable},
		"refused":      {err: manifest.ErrUntrusted},
		"lost":         {job: api.Job{ID: "1", State: api.StateRunning}, err: cas.ErrUnreachable},
		"not verified": {job: api.Job{ID: "1", State: api.StateDone}, err: manifest.ErrUntrusted},
		"exit 3":       {job: api.Job{ID: "1", State: api.StateDone, Reason: plasm.ReasonExit, ExitCode: 3}},
		"queued":       {job: api.Job{ID: "1", State: api.StateQueued}},
	} {
		if got := a.state(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
