package queue

import (
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Submission is a job to accept, of which the caller sets ID, Name, Submitter, Key, Role, Module, Digest,
// Spec and OutputLimit.
type Submission struct {
	Job
	Limit       int     // jobs of its submitter that may wait and run at a time; 0 is no limit
	ModuleBytes *Upload // nil if the job has none
	InputBytes  *Upload
	Nonce       *Nonce // nil for a local job
}

// Accept stores a job durably, and then lets workers claim it. An error means that nothing is stored: it
// wraps ErrFull without room for the job, and ErrReplay for a job or a nonce that was accepted before.
func (q *Queue) Accept(s Submission) (Job, error) {
	q.write.Lock()
	defer q.write.Unlock()
	e, err := q.prepare(s)
	if err != nil {
		return Job{}, err
	}
	if err := q.refuse(e, s); err != nil {
		return Job{}, err
	}
	if err := q.makeRoom(s.Key, 1, e.bytes); err != nil {
		return Job{}, err
	}
	placed, err := q.place(s)
	if err == nil {
		err = q.db.Update(func(tx *bbolt.Tx) error { return q.insert(tx, e, s) })
	}
	if err != nil {
		q.removeBlobs(placed)
		return Job{}, q.stored(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s.take(q, placed)
	spec := e.job.Spec
	e.job.Spec = nil
	q.add(e)
	if s.Nonce != nil {
		q.nonces[s.Nonce.Key]++
	}
	q.wake()
	out := e.job
	out.Spec = spec
	return out, nil
}

// prepare makes the entry of a submission.
func (q *Queue) prepare(s Submission) (*entry, error) {
	j := s.Job
	if !isID(j.ID) {
		return nil, refusal.Invalid("job ID %.70q: not 64 lower-case hex digits", j.ID)
	}
	if u := s.ModuleBytes; u != nil {
		j.HasModule, j.Digest, j.Length = true, u.Digest(), u.Length()
	}
	if u := s.InputBytes; u != nil {
		j.HasInput, j.Input, j.InputLength = true, u.Digest(), u.Length()
	}
	if s.Nonce != nil {
		j.Expires = s.Nonce.Expires.UTC().Round(0)
	}
	j.State, j.Created, j.Result = Waiting, q.now(), Result{ExitCode: -1}
	e := &entry{job: j, spec: len(j.Spec), changed: make(chan struct{})}
	e.bytes = q.sizeOf(e)
	return e, nil
}

// refuse returns an error for a job that is a replay, or takes too much of the room.
func (q *Queue) refuse(e *entry, s Submission) error {
	q.mu.Lock()
	known := q.jobs[e.job.ID] != nil
	q.mu.Unlock()
	if known {
		return refusal.New(ErrReplay, "job %s: accepted before; sign a new order", e.job.ID)
	}
	if err := q.checkNonce(s.Nonce); err != nil {
		return err
	}
	return q.checkShare(e, s.Limit)
}

// checkShare refuses a job of a submitter that has its limit of jobs, or as many waiting jobs, or bytes of
// them, as there is room left. So one submitter takes at most half of the queue, and each other one half of
// the rest: a dynamic threshold, as in switches that share a buffer.
func (q *Queue) checkShare(e *entry, limit int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting, own, ownBytes, taken := 0, 0, int64(0), int64(0)
	for _, other := range q.order {
		if other.job.State == Done {
			continue
		}
		taken += other.weight()
		if other.job.Key != e.job.Key {
			continue
		}
		own++
		ownBytes += other.weight()
		if other.job.State == Waiting {
			waiting++
		}
	}
	if limit > 0 && own >= limit {
		return refusal.New(ErrFull, "queue: %d jobs of %s wait or run, and the release allows %d at a time; try again when one has ended", own, e.owner(), limit)
	}
	switch free, room := q.opts.MaxWaiting-q.waiting, q.opts.MaxBytes-taken; {
	case free <= 0:
		return refusal.New(ErrFull, "queue: %d jobs wait, the limit; try again when some have run", q.waiting)
	case waiting >= free:
		return refusal.New(ErrFull, "queue: %d jobs of %s wait, and the %d places left are for others; try again when some have run", waiting, e.owner(), free)
	case e.weight() > room:
		return refusal.New(ErrFull, "queue: the job needs %d bytes, and %d of %d are left; try again when jobs have ended, or give it a lower output limit", e.weight(), max(room, 0), q.opts.MaxBytes)
	case ownBytes+e.weight() > room:
		return refusal.New(ErrFull, "queue: the jobs of %s take %d bytes, and the %d left are for others; try again when some have ended", e.owner(), ownBytes, room)
	}
	return nil
}

// weight is what a job takes of MaxBytes. It counts a blob for each job that has it until it is done.
func (e *entry) weight() int64 {
	n := e.bytes
	if e.job.State == Done {
		return n
	}
	for _, r := range e.job.blobs() {
		n += r.length
	}
	return n
}

func (e *entry) owner() string {
	if e.job.Key == "" {
		return "this machine"
	}
	return fmt.Sprintf("submitter %q", e.job.Submitter)
}

// place makes the uploads durable, and returns the digests of those whose files are new.
func (q *Queue) place(s Submission) (placed []string, err error) {
	for _, u := range []*Upload{s.ModuleBytes, s.InputBytes} {
		if u == nil || len(placed) > 0 && placed[0] == u.Digest() {
			continue
		}
		fresh, err := u.place()
		if fresh && err == nil {
			placed = append(placed, u.Digest())
		}
		if err != nil {
			return placed, err
		}
	}
	if len(placed) == 0 {
		return nil, nil
	}
	return placed, q.syncBlobs()
}

// take ends the uploads: their bytes count for blobs from now on. The caller holds q.mu.
func (s Submission) take(q *Queue, placed []string) {
	for _, u := range []*Upload{s.ModuleBytes, s.InputBytes} {
		if u == nil {
			continue
		}
		q.uncharge(u)
		if len(placed) > 0 && placed[0] == u.Digest() {
			u.taken, placed = true, placed[1:]
		}
	}
}

func (q *Queue) insert(tx *bbolt.Tx, e *entry, s Submission) (err error) {
	jobs := tx.Bucket(jobsBucket)
	if e.seq, err = jobs.NextSequence(); err != nil {
		return err
	}
	return errors.Join(putJSON(jobs, seqKey(e.seq), e.job), putNonce(tx, s.Nonce))
}

// stored explains why something could not be stored.
func (q *Queue) stored(err error) error {
	return fmt.Errorf("state %s: not stored: %w", q.dir, file.FullDisk(file.Pathless(err)))
}

// makeRoom drops finished jobs until there is room for more jobs and bytes of a submitter. The caller holds
// q.write.
func (q *Queue) makeRoom(key string, jobs int, bytes int64) error {
	q.mu.Lock()
	var victims []*entry
	chosen := map[*entry]bool{}
	count, inUse := len(q.order)+jobs, q.bytes+bytes
	for count > q.opts.MaxJobs || inUse > q.opts.MaxBytes {
		more, measure := int64(jobs), func(*entry) int64 { return 1 }
		if inUse > q.opts.MaxBytes {
			more, measure = bytes+q.uploads[key], (*entry).weight
		}
		e := q.oldestOfMost(key, more, chosen, measure)
		if e == nil {
			break
		}
		victims, chosen[e] = append(victims, e), true
		count, inUse = count-1, inUse-e.bytes
	}
	full := count > q.opts.MaxJobs || inUse > q.opts.MaxBytes
	q.mu.Unlock()
	if full {
		return refusal.New(ErrFull, "queue: %d jobs with %d bytes, the limits are %d and %d; try again when jobs have ended", count, inUse, q.opts.MaxJobs, q.opts.MaxBytes)
	}
	return q.drop(victims)
}

// oldestOfMost returns the oldest finished job of the submitter whose finished jobs take most: jobs or bytes,
// as measure says. A submitter that needs more takes nothing from others that have less than it would have
// then, its uploads and waiting jobs included. So neither a flood of one, nor its large jobs or uploads, drop
// the receipts of others. It leaves out those that were chosen. The caller holds q.mu.
func (q *Queue) oldestOfMost(key string, more int64, chosen map[*entry]bool, measure func(*entry) int64) (oldest *entry) {
	total, done, first := map[string]int64{key: more}, map[string]int64{}, map[string]*entry{}
	for _, e := range q.order {
		if chosen[e] {
			continue
		}
		by := e.job.Key
		total[by] += measure(e)
		if e.job.State != Done {
			continue
		}
		if done[by] += measure(e); first[by] == nil {
			first[by] = e
		}
	}
	for by, e := range first {
		if by != key && total[by] < total[key] {
			continue
		}
		if oldest == nil || done[by] > done[oldest.job.Key] || done[by] == done[oldest.job.Key] && e.seq < oldest.seq {
			oldest = e
		}
	}
	return oldest
}

// drop removes finished jobs. The caller holds q.write.
func (q *Queue) drop(victims []*entry) error {
	if len(victims) == 0 {
		return nil
	}
	err := q.db.Update(func(tx *bbolt.Tx) error {
		for _, e := range victims {
			if err := errors.Join(tx.Bucket(jobsBucket).Delete(seqKey(e.seq)), tx.Bucket(receiptBucket).Delete(seqKey(e.seq))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return q.stored(err)
	}
	q.mu.Lock()
	gone := map[*entry]bool{}
	for _, e := range victims {
		gone[e] = true
		delete(q.jobs, e.job.ID)
		q.bytes -= e.bytes
	}
	kept := q.order[:0]
	for _, e := range q.order {
		if !gone[e] {
			kept = append(kept, e)
		}
	}
	clear(q.order[len(kept):])
	q.order = kept
	q.mu.Unlock()
	for _, e := range victims {
		os.Remove(q.path(outputDir, e.job.ID)) // sweep removes what stays
	}
	return nil
}

// Prune drops the finished jobs that are older than MaxAge, and forgets nonces that have expired.
func (q *Queue) Prune() error {
	q.write.Lock()
	defer q.write.Unlock()
	limit := q.now().Add(-q.opts.MaxAge)
	q.mu.Lock()
	var old []*entry
	for _, e := range q.order {
		if e.job.State == Done && e.job.Ended.Before(limit) {
			old = append(old, e)
		}
	}
	q.mu.Unlock()
	return errors.Join(q.drop(old), q.pruneNonces(q.now()))
}

// Created returns when the store was made: it knows no nonce from before.
func (q *Queue) Created() time.Time { return q.created }

// Check returns the error with which Accept would refuse a job, before its module and input are there.
func (q *Queue) Check(s Submission) error {
	q.write.Lock()
	defer q.write.Unlock()
	s.ModuleBytes, s.InputBytes = nil, nil
	e, err := q.prepare(s)
	if err != nil {
		return err
	}
	return q.refuse(e, s)
}
