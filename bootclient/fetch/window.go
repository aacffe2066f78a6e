package fetch

import (
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// How many requests may be under way at a source (its window), and how large each may be.
const (
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
)

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

// weight is how much of its source's window a job takes.
func (j *job) weight() int {
	if j.ranged {
		return rangeWeight
	}
	return 1
}
