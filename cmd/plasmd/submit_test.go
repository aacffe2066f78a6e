package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
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

// A job that a machine has accepted is not lost with the connection: its ID is in the error.
func TestTheErrorOfALostMachineSaysHowToFollowItsJob(t *testing.T) {
	at := targets{flags: &targetFlags{socket: "s.sock"}}
	for name, c := range map[string]struct {
		a       attempt
		follows bool
	}{
		"lost while it runs": {attempt{job: api.Job{ID: "12ab", State: api.StateRunning}, err: cas.ErrUnreachable}, true},
		"not accepted":       {attempt{err: cas.ErrUnreachable}, false},
		"done":               {attempt{job: api.Job{ID: "12ab", State: api.StateDone}, err: cas.ErrUnreachable}, false},
		"refused":            {attempt{job: api.Job{ID: "12ab", State: api.StateRunning}, err: manifest.ErrUntrusted}, false},
	} {
		c.a.machine = client.Machine{Name: "s.sock"}
		err := c.a.lost(at, c.a.failure())
		if got := err != nil && strings.Contains(err.Error(), "follow it with: plasmd logs --follow --socket s.sock 12ab"); got != c.follows {
			t.Errorf("%s: %v", name, err)
		}
		if before := c.a.failure(); cli.Code(err) != cli.Code(before) {
			t.Errorf("%s: exit code %d, not %d", name, cli.Code(err), cli.Code(before))
		}
	}
}

// The error of a job that a limit ended names the flag of the limit, and no job twice.
func TestTheErrorOfAJobNamesTheFlagOfItsLimit(t *testing.T) {
	for _, c := range []struct{ reason, detail, want string }{
		{plasm.ReasonTimeout, "the job reached its time limit", `job "j" failed (timeout): the job reached its time limit; --timeout raises the limit`},
		{plasm.ReasonMemory, "too much; raise it", `job "j" failed (memory): too much; raise it`},
		{plasm.ReasonTrap, `"unreachable"`, `job "j" failed (trap): "unreachable"`},
		{api.ReasonNotRun, `job "j": no artifact`, `job "j" failed (not-run): no artifact`},
	} {
		if got := failedText("j", c.reason, c.detail); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
