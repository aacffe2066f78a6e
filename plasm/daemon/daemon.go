package daemon

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

const (
	pruneEvery = 10 * time.Minute
	maxWait    = 24 * time.Hour // of a job in the queue
)

// Options say what a Daemon runs, for whom.
type Options struct {
	Queue     *queue.Queue
	Key       ed25519.PrivateKey // of the machine; signs receipts
	Ephemeral bool               // the key ends with this boot or this process
	Release   *manifest.Release  // verified; nil without one: then jobs come with their module, from the machine
	Dir       string             // folder with the artifacts of the release, each named by its role
	Root      int64              // TUF version of the root, for receipts; 0 if it is not known
	Report    string             // SHA-256 of the boot report in hex, for receipts
	Groups    []string           // groups that the machine belongs to
	Private   bool               // nothing is written to a disk
	Workers   int                // jobs at once; 0 is 2

	MaxModule, MaxInput int64         // bytes of a submission; 0 is that of plasm/api
	Grace               time.Duration // for running jobs after the end of Run's context

	// Engine runs a job, as plasm.Process.Run does.
	Engine func(context.Context, plasm.Job, plasm.Spec, plasm.IO) (plasm.Outcome, error)
	// Fetch returns the verified bytes of a module. It tries again what may get well, until it gives up or ctx
	// ends. The error for more than limit bytes wraps ErrTooLarge, that for wrong ones cas.ErrCorrupt. nil: a
	// job by CID is refused unless the release has its module.
	Fetch func(ctx context.Context, c cid.Cid, limit int64) ([]byte, error)
	// ExitCode maps an error to the exit code that the client's command has.
	ExitCode func(error) int

	Version string
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: no log
}

// A Daemon runs jobs. Its handlers may serve before Run and after it.
type Daemon struct {
	Options
	started time.Time
	machine string // key in hex
	meter   *meter
	local   *slots // submissions on the socket
	opening *slots // first parts of submissions over the network
	network *slots // the rest of them
	faults  *faults

	bodyTime time.Duration // for the body of a request that has none to read

	slots  chan struct{}   // held by the jobs that run
	ending <-chan struct{} // closed when no job may begin any more

	mu     sync.Mutex
	cancel map[string]context.CancelCauseFunc // of claimed jobs, by ID
	early  map[string]int                     // clients that wait for the end of a job that has no entry in cancel yet
	peer   string
	listen func() []string
}

// New returns a Daemon, and finishes the jobs that ran when the last one ended.
func New(o Options) (*Daemon, error) {
	o.Workers = cmp.Or(max(o.Workers, 0), 2)
	o.MaxModule, o.MaxInput = cmp.Or(o.MaxModule, api.MaxModule), cmp.Or(o.MaxInput, api.MaxInput)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Daemon{
		Options: o, started: o.Now().UTC(), machine: hex.EncodeToString(o.Key.Public().(ed25519.PublicKey)),
		local: newSlots(submissions, localUploads, localUploads), opening: newSlots(submissions, networkFirst, firstOfOne),
		network: newSlots(submissions, networkUploads, uploadsOfOne), faults: newFaults(), bodyTime: readGrace,
		cancel: map[string]context.CancelCauseFunc{}, early: map[string]int{}, slots: make(chan struct{}, o.Workers),
	}
	d.meter = newMeter(d)
	for _, j := range o.Queue.Interrupted() {
		if err := d.interrupted(j); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// SetPeer tells the status how the machine is reached on the network.
func (d *Daemon) SetPeer(id string, listen func() []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peer, d.listen = id, listen
}

// errWaited ends a job that found no worker in time.
var errWaited = errors.New("it waited for 24 hours")

// errExpired ends a job whose order is no longer valid.
var errExpired = errors.New("expired")

// expired returns an error for a job that may not start any more.
func (d *Daemon) expired(j queue.Job) error {
	if j.Expires.IsZero() || d.Now().Before(j.Expires) {
		return nil
	}
	return refusal.New(errExpired, "it could not start before its order expired at %s; sign one with a longer life", j.Expires.Format(time.RFC3339))
}

// errStopping is the cause of the end of a job whose daemon is stopped.
var errStopping = errors.New("plasmd was stopped while it ran")

// errCancelled is the cause of the end of a job that a client cancelled.
var errCancelled = errors.New("cancelled on request")

// Run runs jobs until ctx ends. Then no job begins; those that run have Options.Grace to end, and are
// interrupted after that. A job whose module is fetched holds up no other: it takes the place of one that runs
// only when the module is there.
func (d *Daemon) Run(ctx context.Context) error {
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(d.Grace, func() { stop(errStopping) }) })()
	d.ending = ctx.Done()
	var workers sync.WaitGroup
	run := func(n int, want func(queue.Job) bool) {
		for range n {
			workers.Go(func() {
				for {
					j, err := d.Queue.Claim(ctx, want)
					if err != nil {
						return
					}
					d.work(running, j)
				}
			})
		}
	}
	run(d.Workers, func(j queue.Job) bool { return !d.fetches(j) })
	run(fetchers, d.fetches)
	workers.Go(func() { d.care(ctx) })
	workers.Wait()
	return nil
}

// care drops old jobs, ends those that waited too long, and forgets nonces from time to time.
func (d *Daemon) care(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := d.Queue.Prune(); err != nil {
			d.Log.Warn("queue: not cleaned", "cause", err)
		}
		old := d.Now().Add(-maxWait)
		for _, j := range d.Queue.List(func(j queue.Job) bool {
			return j.State == queue.Waiting && (j.Created.Before(old) || d.expired(j) != nil)
		}) {
			if j, ok := d.Queue.Take(j.ID); ok {
				d.finish(ctx, &run{job: j}, plasm.Outcome{ExitCode: plasm.NoExitCode, Reason: api.ReasonExpired, Detail: oneLine(cmp.Or(d.expired(j), errWaited))})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Cancel ends a job, and waits for its outcome until ctx ends. A job that is done stays as it is.
func (d *Daemon) Cancel(ctx context.Context, id string) {
	if j, ok := d.Queue.Take(id); ok {
		d.finish(ctx, &run{job: j}, cancelled())
		return
	}
	d.mu.Lock()
	if stop := d.cancel[id]; stop != nil {
		stop(errCancelled)
	} else { // a worker has claimed it this moment, or it is done
		d.early[id]++
		defer d.forget(id)
	}
	d.mu.Unlock()
	for {
		changed := d.Queue.Changed(id)
		if j, ok := d.Queue.Get(id); !ok || j.State == queue.Done || changed == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// forget undoes one entry of early.
func (d *Daemon) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.early[id]--; d.early[id] == 0 {
		delete(d.early, id)
	}
}

func cancelled() plasm.Outcome {
	return plasm.Outcome{ExitCode: plasm.NoExitCode, Reason: api.ReasonCancelled, Detail: errCancelled.Error()}
}

// submitter returns the submitter with a key in hex, as the release names it.
func (d *Daemon) submitter(key string) (manifest.Submitter, bool) {
	raw, err := hex.DecodeString(key)
	if err != nil || d.Release == nil || key == "" {
		return manifest.Submitter{}, false
	}
	return d.Release.Submitter(raw)
}

// oneLine makes the text of an error safe for one line of a terminal.
func oneLine(err error) string {
	text := refusal.Printable(strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "�")), " "))
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "…"
	}
	return text
}
