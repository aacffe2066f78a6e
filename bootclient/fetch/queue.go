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
	maxJobs      = 48      // requests under way, and so blocks in memory
	maxUnproven  = 32      // of these, at sources that have sent no block yet
	blockWindow  = 6       // requests under way at a near source of single blocks
	firstStep    = 15      // the window of a far source grows at least by this
	queuedTrips  = 6       // round trips of a request on a line that is not full: a new connection takes four
	runWindow    = 4       // requests under way at a source of runs
	fastWindow   = 2       // … that sends a run in less than timing.FastRun: enough to keep it busy, and sha256 finds the leaves in memory
	sharedWindow = 2       // requests under way at a near origin that peers share
	rangeWeight  = 2       // a range of a file counts as so many requests: three are under way at a near source, 24 at a far one
	maxRanges    = 24      // ranges under way at all sources: each has a buffer, and a machine has little memory
	minRange     = 1 << 18 // bytes of a range, unless fewer are missing
	farTrips     = 4       // round trips that a run from a far source takes at least
	maxRun       = 4 << 20 // bytes of a run
	sharedRun    = 1 << 20 // … while peers may want a part of it
	runWorth     = 8       // a run must have this many times the bytes of its inner nodes, if it repeats them
	startStep    = 64      // random start positions are multiples of this

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

// openWindows opens the whole window of a new static mirror that has sent the metadata: growing would cost
// a far one several round trips. A mirror that a DHCP server named has to send a block first. While a machine
// may have peers, only the window of a far mirror is opened, and not if the machine knows of a peer.
func (q *queue) openWindows() {
	for _, st := range q.sources {
		if st.proven || !st.src.Named() || !st.src.GivesRanges() || !st.src.HasDelivered() {
			continue
		}
		window, _ := farWindow(blockWindow, 1, st.src.RoundTrip(), 0)
		if q.shuffled && (window == blockWindow || slices.ContainsFunc(q.sources, func(o *sourceState) bool { return o.src.IsPeer() })) {
			continue
		}
		st.proven, st.nextRun, st.window = true, sharedRun, window
	}
}

// weight is how much of its source's window a job takes.
func (j *job) weight() int {
	if j.ranged {
		return rangeWeight
	}
	return 1
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

// rangesFull reports whether no further range may be requested.
func (q *queue) rangesFull() bool {
	ranges := 0
	for _, j := range q.jobs {
		if j.ranged {
			ranges++
		}
	}
	return ranges >= maxRanges
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

// runBytes returns the largest size of one request to a source. It is small near the end, and
// while peers share the origin; it is 0, which means a single leaf, for a source without
// runs, and while no further range may be requested.
func (q *queue) runBytes(st *sourceState) int64 {
	ranges := st.src.GivesRanges()
	if !st.proven || !ranges && !st.src.GivesRuns() || q.swarm.shares(st) || ranges && q.rangesFull() {
		return 0
	}
	limit := int64(maxRun)
	if q.shuffled {
		limit = sharedRun
	}
	var slots int64
	for _, other := range q.sources {
		if other.proven {
			slots += other.slots()
		}
	}
	share := max(q.bytesLeft()/(2*slots), sharedRun)
	if ranges { // all at once: the connections of a far source get fast one beside the other
		share = max(q.bytesLeft()/min(slots, maxRanges), minRange)
	}
	return min(st.nextRun, limit, share)
}

// slots is how many runs may be requested at once from a source.
func (st *sourceState) slots() int64 {
	if st.src.GivesRanges() {
		return int64(max(st.window/rangeWeight, 1))
	}
	return int64(st.window)
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

// adjust sets a source's window and the size of its next run from a finished job.
func (q *queue) adjust(st *sourceState, j *job, now time.Time) {
	rate := float64(j.bytes) / max(now.Sub(j.began).Seconds(), 1e-6)
	if st.rate > 0 {
		rate = (3*st.rate + rate) / 4
	}
	st.rate = rate
	trip, took := st.src.RoundTrip(), now.Sub(j.began)
	runTime := max(timing.RunTime, farTrips*trip)
	st.nextRun = int64(min(rate*runTime.Seconds(), max(float64(2*st.nextRun), sharedRun)))
	runs := st.src.GivesRuns() && !st.src.GivesRanges()
	shared := q.swarm.shares(st) || q.shuffled && (runs || q.swarm != nil && q.swarm.hasPeers)
	limit, step := sharedWindow, 1
	switch {
	case shared && !runs:
		limit, step = farWindow(sharedWindow, st.window, trip, took)
	case shared:
	case runs && took < timing.FastRun:
		limit = fastWindow
	case runs:
		limit = runWindow
	default:
		limit, step = farWindow(blockWindow, st.window, trip, took)
	}
	st.window = min(st.window+step, limit)
}

// farWindow returns how many single blocks may be requested at once from a source, where near is the number
// for a near one, and by how much the window grows after a request that took so long. The window follows
// the round trip (bandwidth-delay product), and shrinks when requests queue on the line. A new connection
// costs several round trips, so the window grows in few steps.
func farWindow(near, window int, trip, took time.Duration) (limit, step int) {
	limit = min(max(int(time.Duration(near)*trip/timing.NearTrip), near), gateway.MaxParallel)
	switch {
	case limit == near:
		return limit, 1
	case took > queuedTrips*trip:
		return max(window-1, near), 1
	}
	return limit, max(window, firstStep)
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
