package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// Ctrl-C while an order is sent names its job: the machine may have accepted it.
func TestAnInterruptedUploadNamesItsJob(t *testing.T) {
	stopped := fmt.Errorf("m: %w", context.Canceled)
	to := targets{flags: &targetFlags{socket: "s"}}
	sending, waiting := &attempt{sent: "0a1b", err: stopped}, &attempt{err: stopped}
	for want, attempts := range map[string][]*attempt{
		"while the job was sent; ask whether it was accepted with: plasmd show --socket s 0a1b":        {waiting, sending},
		"while 2 jobs were sent; ask whether the first was accepted with: plasmd show --socket s 0a1b": {sending, sending},
		"the job goes on, follow it with: plasmd logs --follow --socket s 1":                           {sending, {job: api.Job{ID: "1"}, err: stopped}},
	} {
		if err := interrupted(to, attempts); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := interrupted(to, []*attempt{waiting}); err.Error() != context.Canceled.Error() {
		t.Errorf("nothing was sent: %v", err)
	}
}
