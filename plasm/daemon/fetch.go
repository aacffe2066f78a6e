package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

// ErrTooLarge is the reason of Options.Fetch for a module of more bytes than the job may have.
var ErrTooLarge = errors.New("larger than the limit")

// fetches reports whether the module of a job is neither stored with it nor in the release.
func (d *Daemon) fetches(j queue.Job) bool {
	return !j.HasModule && j.Role == "" && d.roleOf(j.Module) == ""
}

// roleOf returns the role of a module in the release, "" if it has none.
func (d *Daemon) roleOf(module string) string {
	if d.Release == nil {
		return ""
	}
	for _, a := range d.Release.Artifacts {
		if strings.HasPrefix(a.Role, "job/") && a.CID.String() == module {
			return a.Role
		}
	}
	return ""
}

// fetch fetches the module of a job, of at most limit bytes, until its order expires.
func (d *Daemon) fetch(ctx context.Context, j queue.Job, limit int64) (plasm.Job, error) {
	c, err := cas.ParseCID(j.Module)
	if err != nil {
		return plasm.Job{}, err
	}
	if err := d.expired(j); err != nil {
		return plasm.Job{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !j.Expires.IsZero() { // a deadline, and no cancellation: the error then says what was asked
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, j.Expires.Sub(d.Now()))
		defer end()
	}
	go func() { // a job that waits for its module does not delay the end of the daemon
		select {
		case <-d.ending:
			stop()
		case <-ctx.Done():
		}
	}()
	data, err := d.Fetch(ctx, c, min(cmp.Or(limit, d.MaxModule), d.MaxModule))
	if err != nil {
		return plasm.Job{}, refusal.New(err, "module %s: %v", c, err)
	}
	digest := sha256.Sum256(data)
	return plasm.Job{Module: data, CID: c, SHA256: hex.EncodeToString(digest[:])}, nil
}

// A moduleError is why a job has no module.
type moduleError struct{ error }

// Unwrap returns the cause.
func (e *moduleError) Unwrap() error { return e.error }

// reasonOf returns the reason of a job that did not run.
func reasonOf(err error) string {
	var module *moduleError
	switch ofModule := errors.As(err, &module); {
	case errors.Is(err, errExpired):
		return api.ReasonExpired
	case ofModule && errors.Is(err, ErrTooLarge):
		return plasm.ReasonModule
	case errors.Is(err, cas.ErrCorrupt):
		return api.ReasonCorrupt
	case ofModule && (errors.Is(err, cas.ErrUnreachable) || errors.Is(err, fs.ErrNotExist)):
		return api.ReasonUnreachable
	}
	return api.ReasonNotRun
}
