package fetch

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	maxJobs     = 48 // requests under way, and so blocks in memory
	maxUnproven = 32 // of these, at sources that have sent no block yet
	startStep   = 64 // random start positions are multiples of this

	maxHedges  = 3 // hedged requests of one job that are under way or brought nothing
	manyMisses = 8 // "not found" in a row, before a source is left alone for a while
)

// A queue assigns the leaves of all downloads to requests. A fast source gets more and
// larger requests. In the endgame, when every leaf is requested, an idle source gets a hedged
// request for leaves that arrive slowly. The queue belongs to one goroutine.
type queue struct {
	times           *timing.Table
	downloads       []*download // in order of preference
	swarm           *swarm      // nil without peers
	shuffled        bool        // peers may begin with the same release now
	sources         []*sourceState
	jobs            []*job
	left            int       // leaves that are not written
	lastLeaf        time.Time // when the last leaf was written
	missesForgotten time.Time // when the missing blocks of the sources were last forgotten
	timesForgotten  int       // how often, since the last leaf
	scratch         bitfield  // result of requestable
}

// A sourceState is the per-source state of the queue.
type sourceState struct {
	src        *peers.Source
	added      time.Time
	window     int        // requests that may be under way
	busy       int        // requests under way, by weight
	proven     bool       // it sent a block
	rate       float64    // bytes per second of one request, 0 while unknown
	nextRun    int64      // bytes of the next run
	lacks      []bitfield // leaves that it answered "not found" for, by artifact
	misses     int        // such answers since its last block
	hasNothing bool       // it has answered nothing but "not found"
	pauseEnd   time.Time  // no request before this

	swarmPeer *swarmPeer // nil: it has no bitfields
	polled    bool       // its bitfields are polled
	ready     bool       // its bitfields are known, or it has none
}

// A job is one request for leaves of an artifact to one source.
type job struct {
	source   *sourceState
	download *download
	leaves   []int // indices in file order
	ranged   bool  // it requests a range of the file
	cancel   context.CancelFunc

	began        time.Time
	lastLeaf     time.Time // when the last leaf arrived
	lastActivity time.Time // the same, or when a hedged request was made
	bytes        int64
	hedges       int  // hedged requests for this job that sent nothing
	hedgeOf      *job // the job that this request hedges
	hedge        bool // this is a hedged request
	dropped      bool // the request is cancelled
}

func newQueue(downloads []*download, now time.Time) *queue {
	q := &queue{times: &timing.Usual, downloads: downloads, lastLeaf: now}
	for k, dl := range downloads {
		dl.index = k
		q.left += dl.left
	}
	return q
}

func (q *queue) addSource(s *peers.Source) *sourceState {
	st := &sourceState{src: s, added: time.Now(), window: 1, lacks: make([]bitfield, len(q.downloads))}
	q.sources = append(q.sources, st)
	return st
}

// free reports whether a source may get another request.
func (q *queue) free(st *sourceState, now time.Time) bool {
	if st.busy >= st.window || len(q.jobs) >= maxJobs || !st.ready || now.Before(st.pauseEnd) {
		return false
	}
	return st.src.State().MayAsk() && (!st.src.BlocksOnly() || q.needsLastResort(now))
}

// next returns the next job, nil when there is none now. Sources that have sent a block come
// first, the least busy one before the others.
func (q *queue) next(now time.Time) *job {
	rand.Shuffle(len(q.sources), func(i, k int) { q.sources[i], q.sources[k] = q.sources[k], q.sources[i] })
	slices.SortStableFunc(q.sources, func(a, b *sourceState) int { return a.load() - b.load() })
	unproven := 0
	for _, j := range q.jobs {
		if !j.source.proven {
			unproven++
		}
	}
	for _, st := range q.sources {
		if !q.free(st, now) || (!st.proven && unproven >= maxUnproven) {
			continue
		}
		if j := q.pick(st, now); j != nil {
			st.busy += j.weight()
			q.jobs = append(q.jobs, j)
			return j
		}
	}
	return nil
}

// load is the number of requests under way. A source that has sent no block counts as the busiest.
func (st *sourceState) load() int {
	if !st.proven {
		return maxJobs + 1
	}
	return st.busy
}

// pick returns a job for a source: waiting leaves, else (endgame) a hedged request. A source of ranges
// gets no waiting leaves while no further range may be requested.
func (q *queue) pick(st *sourceState, now time.Time) *job {
	if st.src.GivesRanges() && q.rangesFull() {
		return q.hedgedJob(st, now)
	}
	for _, dl := range q.downloadOrder() {
		if j := q.newJob(st, dl, q.requestable(st, dl, dl.waiting, now), now); j != nil {
			for _, i := range j.leaves {
				dl.waiting.remove(i)
			}
			return j
		}
	}
	return q.hedgedJob(st, now)
}

// downloadOrder lists the unfinished artifacts in the order in which they are requested, the
// kernel first. While a machine may have unknown peers, it begins at a random artifact:
// otherwise all machines request the same kernel.
func (q *queue) downloadOrder() []*download {
	order := slices.DeleteFunc(slices.Clone(q.downloads), func(dl *download) bool { return dl.left == 0 })
	left := q.bytesLeft()
	if !q.shuffled || left == 0 || (q.swarm != nil && q.swarm.hasPeers) {
		return order
	}
	at := rand.Int64N(left)
	for i, dl := range order {
		if at -= dl.bytesLeft.Load(); at < 0 {
			return slices.Insert(slices.Delete(order, i, i+1), 0, dl)
		}
	}
	return order
}

// bytesLeft returns the missing bytes of all downloads.
func (q *queue) bytesLeft() (left int64) {
	for _, dl := range q.downloads {
		left += dl.bytesLeft.Load()
	}
	return left
}

// requestable returns the subset of some leaves of a download that may be requested from a source.
// The result is valid until the next call.
func (q *queue) requestable(st *sourceState, dl *download, some bitfield, now time.Time) bitfield {
	q.scratch = append(q.scratch[:0], some...)
	q.scratch.without(st.lacks[dl.index])
	if q.swarm != nil {
		q.swarm.restrict(st, dl.index, q.scratch, now)
	}
	return q.scratch
}

// newJob returns a job with the first leaf of some and with the leaves after it, up to the
// size of a run. With shuffled it begins at a random position. It skips leaves between them
// if the source supports gaps.
func (q *queue) newJob(st *sourceState, dl *download, some bitfield, now time.Time) *job {
	first := some.next(0)
	if first < 0 {
		return nil
	}
	if q.shuffled {
		first = max(first, some.next(rand.IntN(len(dl.leaves))/startStep*startStep))
	}
	gaps, ranges := 0, st.src.GivesRanges()
	if st.src.Gaps.Load() && !ranges {
		gaps = gateway.MaxGaps
	}
	run, size, limit := []int{first}, dl.leaves[first].Size, q.runBytes(st)
	for last, i := first, some.next(first+1); i >= 0 && size+dl.leaves[i].Size <= limit; last, i = i, some.next(i+1) {
		if i > last+1 {
			gaps--
		}
		if gaps < 0 {
			break
		}
		size += dl.leaves[i].Size
		run = append(run, i)
	}
	if size < runWorth*dl.nodeBytes() && st.src.Repeats.Load() && !ranges {
		run = run[:1]
	}
	return &job{source: st, download: dl, leaves: run, ranged: ranges && len(run) > 1, began: now, lastLeaf: now, lastActivity: now}
}

// hedgedJob returns a hedged request for leaves of the request that has been silent longest. A
// source that has sent no block yet gets none while there are proven sources.
func (q *queue) hedgedJob(st *sourceState, now time.Time) *job {
	if !st.proven && slices.ContainsFunc(q.sources, func(o *sourceState) bool { return o.proven && !o.src.IsBanned() }) {
		return nil
	}
	var slow *job
	for _, j := range q.jobs {
		if j.hedge || j.hedges == maxHedges || j.source == st || now.Sub(j.lastActivity) < timing.HedgeAfter || (slow != nil && !j.lastActivity.Before(slow.lastActivity)) {
			continue
		}
		if q.requestable(st, j.download, j.missingLeaves(), now).next(0) >= 0 {
			slow = j
		}
	}
	if slow == nil {
		return nil
	}
	j := q.newJob(st, slow.download, q.requestable(st, slow.download, slow.missingLeaves(), now), now)
	j.hedge, j.hedgeOf = true, slow
	slow.hedges++
	slow.lastActivity = now
	return j
}

// missingLeaves returns the leaves that a job has not brought yet.
func (j *job) missingLeaves() bitfield {
	out := newBitfield(len(j.download.leaves))
	for _, i := range j.leaves {
		if j.download.missing.has(i) {
			out.add(i)
		}
	}
	return out
}

func (j *job) covers(dl *download, i int) bool {
	_, asked := slices.BinarySearch(j.leaves, i)
	return asked && j.download == dl
}

// leafDone records that a job brought a leaf, which is written. It returns the bytes of all
// its positions, 0 if the leaf was complete before. Jobs without missing leaves are dropped.
func (q *queue) leafDone(j *job, i int, now time.Time) int64 {
	size := j.download.leaves[i].Size
	j.lastLeaf, j.lastActivity, j.bytes = now, now, j.bytes+size
	if !j.download.missing.has(i) {
		return 0
	}
	n := j.download.complete(i)
	q.left -= 1 + len(j.download.copies[i])
	q.lastLeaf = now
	j.source.delivered(size)
	for _, other := range q.jobs {
		if other != j && other.covers(j.download, i) && other.missingLeaves().next(0) < 0 {
			other.drop()
			if !other.source.proven && now.Sub(other.lastLeaf) > timing.HedgeAfter {
				other.source.src.MarkSlow("slow: another source sent the block first")
			}
		}
	}
	return n
}

func (j *job) drop() {
	j.dropped = true
	if j.cancel != nil {
		j.cancel()
	}
}

func (st *sourceState) delivered(size int64) {
	st.src.Delivered(int(size))
	st.proven, st.hasNothing, st.misses, st.pauseEnd = true, false, 0, time.Time{}
}

// jobDone removes a job, and makes its missing leaves available to other sources.
func (q *queue) jobDone(j *job, err error, now time.Time) {
	q.jobs = slices.DeleteFunc(q.jobs, func(o *job) bool { return o == j })
	st := j.source
	st.busy -= j.weight()
	for _, i := range j.leaves {
		if !j.download.missing.has(i) {
			continue
		}
		under := slices.IndexFunc(q.jobs, func(o *job) bool { return o.covers(j.download, i) })
		if under < 0 {
			j.download.waiting.add(i)
		} else if !j.hedge {
			q.jobs[under].hedge = false
		}
	}
	if j.hedgeOf != nil && j.bytes > 0 { // the hedged request helps: more of the slow job may be hedged at once
		j.hedgeOf.hedges--
		j.hedgeOf.lastActivity = j.hedgeOf.lastLeaf
	}
	switch {
	case err == nil:
		q.adjust(st, j, now)
	case errors.Is(err, fs.ErrNotExist):
		q.noteMissing(st, j, now)
	case !j.dropped && !errors.Is(err, gateway.ErrNoRuns) && !errors.Is(err, gateway.ErrNoRanges):
		st.window = 1
	}
	if q.swarm != nil {
		q.swarm.jobDone(j, err, now)
	}
}

// noteMissing records that a source does not have a leaf. A source that lacks many leaves in a
// row gets no request for a while: it may be receiving them now.
func (q *queue) noteMissing(st *sourceState, j *job, now time.Time) {
	k := j.download.index
	if st.lacks[k] == nil {
		st.lacks[k] = newBitfield(len(j.download.leaves))
	}
	st.lacks[k].add(j.leaves[0])
	if st.misses++; st.misses%manyMisses == 0 {
		st.hasNothing = !st.proven
		st.pauseEnd = now.Add(timing.Growing(q.times.FailFirst, st.misses/manyMisses, q.times.FailMax))
	}
}
