package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/order"
)

// maxClockError is how far the clock of a machine may be from ours without a warning. An order begins to be
// valid five minutes before it was made.
const maxClockError = 4 * time.Minute

// A Task is a job to run on machines. It names its module by Role, by CID, or by its bytes.
type Task struct {
	Name   string
	Role   string // in the release of the machine
	CID    string
	Module *plasm.Job // bytes that are sent; nil with Role or CID
	Spec   plasm.Spec
	Input  []byte // of stdin; nil for none

	Signer   signature.Signer // of a submitter; nil for the socket of this machine
	Lifetime time.Duration    // of an order: how long the job may wait to start
	Patience time.Duration    // how long a machine may be unreachable while it runs the job, or busy before

	Sends func(id string)            // called before an order is sent, with the ID of its job; nil for nothing
	Busy  func(m Machine, err error) // called once if the machine is busy and is asked again; nil for nothing
}

// Submit asks a machine to run the task, again with pauses while it is busy. With a signer the order is for
// this machine only, and a connection that is lost while it is sent is no failure if the machine has accepted
// it.
func (t Task) Submit(ctx context.Context, m Machine) (api.Job, error) {
	s, id, err := t.submission(ctx, m)
	if err != nil {
		return api.Job{}, err
	}
	if id != "" && t.Sends != nil {
		t.Sends(id)
	}
	lost, told := false, t.Busy == nil
	for until, pause := time.Now().Add(t.Patience), lostPause; ; pause = min(2*pause, lostLongest) {
		job, err := m.Client.Submit(ctx, s)
		if err == nil && id != "" && job.ID != id {
			return api.Job{}, m.Client.broken("the job has the ID %s, not that of its order", job.ID)
		}
		busy := errors.Is(err, ErrBusy)
		lost = lost || id != "" && errors.Is(err, cas.ErrUnreachable) // it may have accepted the order
		if !busy && !(id != "" && errors.Is(err, cas.ErrUnreachable)) || time.Now().After(until) {
			return job, err
		}
		if busy && !told {
			told = true
			t.Busy(m, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return api.Job{}, ctx.Err()
		}
		if !lost {
			continue
		}
		if job, err := m.Client.Job(ctx, id); !errors.Is(err, cas.ErrUnreachable) && !errors.Is(err, ErrBusy) && !errors.Is(err, fs.ErrNotExist) {
			return job, err
		}
	}
}

// submission returns what is sent to a machine, and the ID of the job if it is an order.
func (t Task) submission(ctx context.Context, m Machine) (s Submission, id string, err error) {
	if t.Signer == nil {
		return t.request(), "", nil
	}
	s.Input = t.Input
	if t.Module != nil {
		s.Module = t.Module.Module
	}
	s.Order, id, err = t.order(ctx, m)
	return s, id, err
}

func (t Task) request() Submission {
	r := &api.Request{Name: t.Name, Role: t.Role, ModuleCID: t.CID, Spec: t.Spec}
	s := Submission{Request: r, Input: t.Input}
	if t.Module != nil {
		s.Module = t.Module.Module
	}
	return s
}

// order returns the signed order for a machine and the ID of its job.
func (t Task) order(ctx context.Context, m Machine) (envelope []byte, id string, err error) {
	o := order.New(t.Name, t.Spec, time.Now(), t.Lifetime)
	o.Role, o.ModuleCID, o.Machine = t.Role, t.CID, m.Status.Machine
	if t.Module != nil {
		o.ModuleCID, o.ModuleSHA256 = t.Module.CID.String(), t.Module.SHA256
	}
	if t.Input != nil {
		sum := sha256.Sum256(t.Input)
		o.InputSHA256 = hex.EncodeToString(sum[:])
	}
	if envelope, err = order.Sign(ctx, t.Signer, o); err != nil {
		return nil, "", err
	}
	o, err = order.Parse(envelope)
	return envelope, o.ID, err
}

// CheckClock returns an error if the clock of a machine differs so much that it may refuse an order that is
// valid here.
func CheckClock(m Machine, now time.Time) error {
	if m.Status.Now.IsZero() {
		return nil
	}
	if d := m.Status.Now.Sub(now); d.Abs() > maxClockError {
		return fmt.Errorf("its clock is %s off: %s; set it, or the machine may refuse orders", d.Round(time.Second), m.Status.Now.UTC().Format(time.RFC3339))
	}
	return nil
}

// A Result is how a task ended on a machine.
type Result struct {
	Job     api.Job
	Receipt []byte // verified: signed by the machine, and about this job and its output
}

// Finish copies the output of a submitted job until it is done, and returns it with its receipt. A receipt
// that is not signed by the machine's key, or that says something else than the machine did, wraps
// manifest.ErrUntrusted.
func (t Task) Finish(ctx context.Context, m Machine, id string, stdout, stderr io.Writer) (Result, error) {
	out, errs := newHashed(stdout), newHashed(stderr)
	job, err := m.Client.Follow(ctx, id, t.Spec.Limits.Output, t.Patience, out, errs)
	if err != nil {
		return Result{Job: job}, err
	}
	var data []byte
	err = patiently(ctx, t.Patience, func() error {
		data, err = m.Client.Receipt(ctx, id)
		return err
	})
	if err != nil {
		return Result{Job: job}, refusal.New(err, "no receipt: %v", err)
	}
	if err := t.check(m, job, data, out, errs); err != nil {
		return Result{Job: job}, err
	}
	return Result{job, data}, nil
}

// patiently repeats a request while the machine is unreachable, for some time.
func patiently(ctx context.Context, patience time.Duration, request func() error) error {
	for until, pause := time.Now().Add(patience), lostPause; ; pause = min(2*pause, lostLongest) {
		err := request()
		if !errors.Is(err, cas.ErrUnreachable) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
