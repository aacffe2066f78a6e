package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phaseboot/phaseboot/internal/file"
)

// ErrClosed says that the Queue was closed.
var ErrClosed = errors.New("queue: closed")

// Claim waits for a job that may run and that want accepts, and gives it to the caller alone. nil accepts
// all. Submitters take turns; the jobs of one submitter are claimed in the order in which they were accepted.
func (q *Queue) Claim(ctx context.Context, want func(Job) bool) (Job, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Job{}, err
		}
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return Job{}, ErrClosed
		}
		e, changed := q.next(want), q.changed
		if e != nil {
			q.claim(e)
		}
		q.mu.Unlock()
		if e != nil {
			return e.job, nil
		}
		select {
		case <-ctx.Done():
			return Job{}, ctx.Err()
		case <-changed:
		}
	}
}

// next returns the first wanted job of the submitter that was served longest ago. The caller holds q.mu.
func (q *Queue) next(want func(Job) bool) (best *entry) {
	seen := map[string]bool{}
	for _, e := range q.order {
		j := &e.job
		if j.State != Waiting || seen[j.Key] || want != nil && !want(*j) {
			continue
		}
		seen[j.Key] = true
		if best == nil || q.served[j.Key] < q.served[best.job.Key] {
			best = e
		}
	}
	return best
}

func (q *Queue) claim(e *entry) {
	q.turn++
	q.served[e.job.Key] = q.turn
	q.waiting--
	e.set(Claimed)
}

// set changes the state in memory. The caller holds q.mu.
func (e *entry) set(state string) {
	e.job.State = state
	e.signal()
}

// signal wakes those that follow the job. The caller holds q.mu.
func (e *entry) signal() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// Take claims one job if it still waits, for a caller that will finish it without a run.
func (q *Queue) Take(id string) (Job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.jobs[id]
	if e == nil || e.job.State != Waiting {
		return Job{}, false
	}
	q.claim(e)
	return e.job, true
}

// A Module names the bytes that a job runs.
type Module struct {
	CID, SHA256 string
	Length      int64
	Machine     json.RawMessage // what a receipt states about the machine that runs them
}

// Begin records durably that a claimed job runs, before it does: it will not run a second time. It returns
// where the output goes; the caller closes that before Finish.
func (q *Queue) Begin(id string, m Module, started time.Time) (*Output, error) {
	q.write.Lock()
	defer q.write.Unlock()
	e := q.entry(id)
	if e == nil || e.job.State != Claimed {
		return nil, fmt.Errorf("job %s: not claimed", id)
	}
	out, err := q.newOutput(e)
	if err != nil {
		return nil, q.stored(err)
	}
	next, err := q.change(e, func(j *Job) {
		j.State, j.Started, j.Module, j.Machine = Running, started.UTC().Round(0), m.CID, m.Machine
		if !j.HasModule { // or else they name its file
			j.Digest, j.Length = m.SHA256, m.Length
		}
	}, nil)
	if err != nil {
		out.Close()
		os.Remove(q.path(outputDir, id))
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	e.job, e.output = next, out
	e.signal()
	return out, nil
}

// change stores another record of a job, and its receipt if there is one. It returns the record without
// its Spec. The caller holds q.write.
func (q *Queue) change(e *entry, edit func(*Job), receipt []byte) (next Job, err error) {
	err = q.db.Update(func(tx *bbolt.Tx) error {
		if next, err = readJob(tx, e.seq); err != nil {
			return err
		}
		edit(&next)
		if receipt != nil {
			if err := tx.Bucket(receiptBucket).Put(seqKey(e.seq), receipt); err != nil {
				return err
			}
		}
		return putJSON(tx.Bucket(jobsBucket), seqKey(e.seq), next)
	})
	next.Spec = nil
	if err != nil {
		return next, q.stored(err)
	}
	return next, nil
}

// Finish records the outcome of a claimed or running job and its receipt, durably and once: an error wraps
// ErrDone if it has one. Its module and input are removed. On a full disk it gives up the reserve, so that
// an error means that not even that was enough; the caller tries again later.
func (q *Queue) Finish(id string, r Result, receipt []byte) error {
	q.write.Lock()
	defer q.write.Unlock()
	e := q.entry(id)
	switch {
	case e == nil:
		return unknown(id)
	case e.job.State == Done:
		return fmt.Errorf("job %s: %w", id, ErrDone)
	case e.job.State == Waiting:
		return fmt.Errorf("job %s: not claimed", id)
	}
	edit := func(j *Job) { j.State, j.Ended, j.Result = Done, q.now(), r }
	next, err := q.change(e, edit, receipt)
	if file.IsFull(err) && os.Remove(q.path(reserveFile)) == nil {
		next, err = q.change(e, edit, receipt)
	}
	if err != nil {
		return err
	}
	q.mu.Lock()
	unused := q.release(e.job.blobs())
	e.job, e.receipt = next, len(receipt)
	q.bytes -= e.bytes
	e.bytes = q.sizeOf(e)
	q.bytes += e.bytes
	e.signal()
	q.mu.Unlock()
	q.removeBlobs(unused)
	_ = q.reserve() // another time, if the disk is still full
	return nil
}

// Unclaim lets a claimed job wait again, for a daemon that ends.
func (q *Queue) Unclaim(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.jobs[id]
	if e == nil || e.job.State != Claimed {
		return
	}
	q.waiting++
	e.set(Waiting)
	q.wake()
}
