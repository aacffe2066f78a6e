package bootclient

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	maxJobs      = 48                    // requests under way at all sources, and so blocks in memory
	maxUnproven  = 32                    // of them at sources that have given nothing yet
	blockWindow  = 6                     // requests under way at a source that gives single blocks, and is near
	nearTrip     = 10 * time.Millisecond // round trip for which these are enough; a source that is farther away gets more in proportion
	firstStep    = 15                    // by which the window of a far source grows at least
	queuedTrips  = 6                     // round trips that a request may take on a line that is not full: a new connection needs four
	runWindow    = 4                     // … that gives runs
	fastWindow   = 2                     // … in less than fastRun each: it is kept busy, and sha256 finds in memory what came
	fastRun      = 50 * time.Millisecond
	sharedWindow = 2                      // … where neighbours share
	maxRun       = 4 << 20                // bytes of a run
	sharedRun    = 1 << 20                // … where neighbours may want some of it
	runTime      = 250 * time.Millisecond // that a run should take
	runWorth     = 8                      // times the bytes of its inner nodes, where they come again
	unitLeaves   = 64                     // a random place to begin at is a multiple of this

	hedgeAfter = 250 * time.Millisecond // without a block, before another source is asked as well
	maxHedges  = 3                      // of one job, under way or in vain
	lastResort = 2 * time.Second        // without a block, before sources of last resort are asked
	manyMisses = 8                      // blocks in a row that a source lacks, before it is let be for a while
)

// A queue assigns the leaves of all downloads to requests. A fast source gets more and
// larger requests. In the endgame, when every leaf is requested, an idle source gets a hedged
// request for leaves that arrive slowly. The queue belongs to one goroutine.
type queue struct {
	times     *timings
	downloads []*download // in order of preference
	swarm     *swarm      // nil without peers
	shuffled  bool        // neighbours may begin with the same release now
	sources   []*sourceState
	jobs      []*job
	left      int       // leaves not in place
	last      time.Time // when the last one came in
	forgot    time.Time // when it was last forgotten what sources lack
	forgets   int       // such times since a leaf came in
	scratch   bitfield  // of offer
}

// A sourceState is what the queue knows of one source.
type sourceState struct {
	src     *source
	since   time.Time
	window  int        // jobs that may be under way
	busy    int        // jobs under way
	proven  bool       // it gave a block
	rate    float64    // bytes a second of one request, 0 while unknown
	unit    int64      // bytes of the next run
	lacks   []bitfield // leaves that it said it does not have, by part
	misses  int        // such answers since it gave one
	absent  bool       // it lacks so much that nobody counts on it
	nothing time.Time

	swarmPeer *swarmPeer // nil: it has everything or nothing, and does not say which
	watched   bool       // it is asked what it has
	joined    bool       // it has answered that, or need not
}

// A job is one request: leaves of a part, of one source.
type job struct {
	source   *sourceState
	download *download
	leaves   []int // by their index, in file order
	cancel   context.CancelFunc

	began   time.Time
	heard   time.Time // when the last leaf came in
	moved   time.Time // the same, or when another source was asked as well
	bytes   int64
	hedges  int  // hedged requests of this job that sent nothing
	of      *job // the job that this one hedges
	hedge   bool // a hedged request
	dropped bool // nobody needs it any more
}

func newQueue(parts []*download, now time.Time) *queue {
	q := &queue{times: &usual, downloads: parts, last: now}
	for _, p := range parts {
		q.left += p.left
	}
	return q
}

// addSource adds a source to the queue.
func (q *queue) addSource(s *source) *sourceState {
	st := &sourceState{src: s, since: time.Now(), window: 1, lacks: make([]bitfield, len(q.downloads))}
	q.sources = append(q.sources, st)
	return st
}

// free reports whether a source may get another request.
func (q *queue) free(st *sourceState, now time.Time) bool {
	if st.busy >= st.window || len(q.jobs) >= maxJobs || !st.joined || now.Before(st.nothing) {
		return false
	}
	open, _, wait, verdict := st.src.state()
	return open && wait <= 0 && verdict == nil && (!st.src.last() || q.needsLastResort(now))
}

// next returns the next job, nil when there is none now. Sources that have sent a block come
// first, and among them the least busy one.
func (q *queue) next(now time.Time) *job {
	rand.Shuffle(len(q.sources), func(i, k int) { q.sources[i], q.sources[k] = q.sources[k], q.sources[i] })
	slices.SortStableFunc(q.sources, func(a, b *sourceState) int { return a.order() - b.order() })
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
			st.busy++
			q.jobs = append(q.jobs, j)
			return j
		}
	}
	return nil
}

func (st *sourceState) order() int {
	if !st.proven {
		return 1000
	}
	return st.busy
}

// pick makes a job for a source: of waiting leaves, else (endgame) a hedged request.
func (q *queue) pick(st *sourceState, now time.Time) *job {
	for _, k := range q.order() {
		p := q.downloads[k]
		if j := q.cut(st, p, q.offer(st, k, p.waiting, now), now); j != nil {
			for _, i := range j.leaves {
				p.waiting.remove(i)
			}
			return j
		}
	}
	return q.double(st, now)
}

// order lists the parts of which something is missing, as they are to be asked for: the
// kernel first. Machines that may be near others and do not know them yet begin anywhere:
// all of them would ask for the same kernel.
func (q *queue) order() []int {
	var order []int
	var left, sum int64
	for k, p := range q.downloads {
		if p.left > 0 {
			order = append(order, k)
			left += p.toCome.Load()
		}
	}
	if !q.shuffled || left == 0 || (q.swarm != nil && q.swarm.hasPeers) {
		return order
	}
	at := rand.Int64N(left)
	for i, k := range order {
		if sum += q.downloads[k].toCome.Load(); at < sum {
			return append(append([]int{k}, order[:i]...), order[i+1:]...)
		}
	}
	return order
}

// offer returns which of some leaves may be requested from a source; valid until the next call.
func (q *queue) offer(st *sourceState, k int, some bitfield, now time.Time) bitfield {
	q.scratch = append(q.scratch[:0], some...)
	q.scratch.without(st.lacks[k])
	if q.swarm != nil {
		q.swarm.restrict(st, k, q.scratch, now)
	}
	return q.scratch
}

// cut takes the first leaf of some, or where order should differ between machines one
// anywhere, and with it those that follow as long as a run is worth it. What lies between
// them is left out of a run where the source knows how.
func (q *queue) cut(st *sourceState, p *download, some bitfield, now time.Time) *job {
	first := -1
	if q.shuffled {
		first = some.next(rand.IntN(len(p.leaves)) / unitLeaves * unitLeaves)
	}
	if first < 0 {
		first = some.next(0)
	}
	if first < 0 {
		return nil
	}
	gaps := 0
	if st.src.gaps.Load() {
		gaps = gateway.MaxGaps
	}
	run, size, limit := []int{first}, p.leaves[first].Size, q.unit(st)
	for last, i := first, some.next(first+1); i >= 0 && size+p.leaves[i].Size <= limit; last, i = i, some.next(i+1) {
		if i > last+1 {
			gaps--
		}
		if gaps < 0 {
			break
		}
		size += p.leaves[i].Size
		run = append(run, i)
	}
	if size < runWorth*p.nodes() && st.src.repeats.Load() {
		run = run[:1]
	}
	return &job{source: st, download: p, leaves: run, began: now, heard: now, moved: now}
}

// unit is the most bytes of one request to a source: small near the end and where others
// want some of it, none but a leaf of a source that does not give runs.
func (q *queue) unit(st *sourceState) int64 {
	if !st.proven || !st.src.givesRuns() || q.swarm.shares(st) {
		return 0
	}
	limit := int64(maxRun)
	if q.shuffled {
		limit = sharedRun
	}
	var left, slots int64
	for _, p := range q.downloads {
		left += p.toCome.Load()
	}
	for _, other := range q.sources {
		if other.proven {
			slots += int64(other.window)
		}
	}
	return min(st.unit, limit, max(left/(2*slots), sharedRun))
}

// double picks leaves that are under way elsewhere, from where nothing came for a
// while. A source that has given nothing yet may not help while there are others.
func (q *queue) double(st *sourceState, now time.Time) *job {
	if !st.proven && slices.ContainsFunc(q.sources, func(o *sourceState) bool { return o.proven && !o.src.isBanned() }) {
		return nil
	}
	var slow *job
	for _, j := range q.jobs {
		if j.hedge || j.hedges == maxHedges || j.source == st || now.Sub(j.moved) < hedgeAfter || (slow != nil && !j.moved.Before(slow.moved)) {
			continue
		}
		if q.offer(st, q.index(j.download), j.rest(), now).next(0) >= 0 {
			slow = j
		}
	}
	if slow == nil {
		return nil
	}
	j := q.cut(st, slow.download, q.offer(st, q.index(slow.download), slow.rest(), now), now)
	j.hedge, j.of = true, slow
	slow.hedges++
	slow.moved = now
	return j
}

func (q *queue) index(p *download) int { return slices.Index(q.downloads, p) }

// rest is the set of leaves that a job has not brought yet.
func (j *job) rest() bitfield {
	out := newBitfield(len(j.download.leaves))
	for _, i := range j.leaves {
		if j.download.missing.has(i) {
			out.add(i)
		}
	}
	return out
}

func (j *job) covers(p *download, i int) bool {
	_, asked := slices.BinarySearch(j.leaves, i)
	return asked && j.download == p
}

// landed counts a leaf that a job brought and wrote. It returns the bytes of all its
// places, 0 when it was there before. Jobs that have nothing left to bring are dropped.
func (q *queue) landed(j *job, i int, now time.Time) int64 {
	size := j.download.leaves[i].Size
	j.heard, j.moved, j.bytes = now, now, j.bytes+size
	if !j.download.missing.has(i) {
		return 0
	}
	n := j.download.landed(i)
	q.left -= 1 + len(j.download.copies[i])
	q.last = now
	j.source.gave(size)
	for _, other := range q.jobs {
		if other != j && other.covers(j.download, i) && other.rest().next(0) < 0 {
			other.drop()
			if !other.source.proven && now.Sub(other.heard) > hedgeAfter {
				other.source.src.late("kept us waiting for a block that another source gave")
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

func (st *sourceState) gave(size int64) {
	st.src.gave(int(size))
	st.proven, st.absent, st.misses, st.nothing = true, false, 0, time.Time{}
}

// ended takes a job off, for whatever reason, and puts back what it did not bring.
func (q *queue) ended(j *job, err error, now time.Time) {
	q.jobs = slices.DeleteFunc(q.jobs, func(o *job) bool { return o == j })
	st := j.source
	st.busy--
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
	if j.of != nil && j.bytes > 0 { // it helps: what the slow one still owes is asked for at once
		j.of.hedges--
		j.of.moved = j.of.heard
	}
	switch {
	case err == nil:
		q.learn(st, j, now)
	case errors.Is(err, fs.ErrNotExist):
		q.lacking(st, j, now)
	case !j.dropped && !errors.Is(err, gateway.ErrNoRuns):
		st.window = 1
	}
	if q.swarm != nil {
		q.swarm.finished(j, err, now)
	}
}

// learn sizes a source's window and its next run by how this job went.
func (q *queue) learn(st *sourceState, j *job, now time.Time) {
	rate := float64(j.bytes) / max(now.Sub(j.began).Seconds(), 1e-6)
	if st.rate > 0 {
		rate = (3*st.rate + rate) / 4
	}
	st.rate = rate
	st.unit = int64(min(rate*runTime.Seconds(), max(float64(2*st.unit), sharedRun)))
	limit, step := blockWindow, 1
	if q.swarm.shares(st) || q.shuffled && (st.src.givesRuns() || q.swarm != nil && q.swarm.hasPeers) {
		limit = sharedWindow
	} else if st.src.givesRuns() {
		limit = runWindow
		if now.Sub(j.began) < fastRun {
			limit = fastWindow
		}
	} else {
		limit, step = st.farWindow(st.src.roundTrip(), now.Sub(j.began))
	}
	st.window = min(st.window+step, limit)
}

// farWindow is how many single blocks may be asked for at once, and by how much the window
// grows after a request that took so long, at a source of a round trip. What is under way follows the round trip, as the
// bandwidth-delay product does, and shrinks when requests queue on the line. A new connection
// costs several round trips, so the window of a far source grows in few steps.
func (st *sourceState) farWindow(trip, took time.Duration) (limit, step int) {
	limit = min(max(int(blockWindow*trip/nearTrip), blockWindow), gateway.MaxParallel)
	switch {
	case limit == blockWindow:
		return limit, 1
	case took > queuedTrips*trip:
		return max(st.window-1, blockWindow), 1
	}
	return limit, max(st.window, firstStep)
}

// lacking remembers that a source does not have a leaf. One that has hardly anything is
// let be for a while: it may be about to get it.
func (q *queue) lacking(st *sourceState, j *job, now time.Time) {
	k := q.index(j.download)
	if st.lacks[k] == nil {
		st.lacks[k] = newBitfield(len(j.download.leaves))
	}
	st.lacks[k].add(j.leaves[0])
	if st.misses++; st.misses%manyMisses == 0 {
		st.absent = !st.proven
		st.nothing = now.Add(growing(q.times.failFirst, st.misses/manyMisses, q.times.failMax))
	}
}
