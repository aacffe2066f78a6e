package fetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// partOf returns a download of n leaves of the given size.
func partOf(t testing.TB, n int, size int64) *download {
	t.Helper()
	dl := &download{Artifact: manifest.Artifact{Role: manifest.RoleRootfs, Length: int64(n) * size}}
	for i := range n {
		name := cas.Sum(cid.Raw, binary.BigEndian.AppendUint64(nil, uint64(i)))
		dl.leaves = append(dl.leaves, cas.Leaf{CID: name, Offset: int64(i) * size, Size: size})
	}
	if err := linkDownloads([]*download{dl}); err != nil {
		t.Fatal(err)
	}
	return dl
}

func mirrorNamed(name string) *peers.Source {
	s := peers.NewSource(peers.KindMirror, name, nil)
	s.SetEndpoints([]*peers.Endpoint{peers.GatewayEndpoint(name, &gateway.Client{})})
	return s
}

// start adds sources that have sent a block before.
func start(q *queue, sources ...*peers.Source) []*sourceState {
	var out []*sourceState
	for _, s := range sources {
		st := q.addSource(s)
		st.ready, st.proven = true, true
		out = append(out, st)
	}
	return out
}

// give brings every leaf of a job.
func (q *queue) give(j *job) {
	for _, i := range j.leaves {
		q.leafDone(j, i, time.Now())
	}
	q.jobDone(j, nil, time.Now())
}

func TestASlowRequestIsHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
		start(q, mirrorNamed("one"), mirrorNamed("two"), mirrorNamed("three"))
		slow := q.next(time.Now())
		if again := q.next(time.Now()); again != nil {
			t.Errorf("asked twice at once: %+v", again)
		}
		time.Sleep(timing.HedgeAfter)
		second := q.next(time.Now())
		if second == nil || second.source == slow.source || second.leaves[0] != slow.leaves[0] {
			t.Fatalf("the hedged request is %+v", second)
		}
		if third := q.next(time.Now()); third != nil {
			t.Errorf("the third is asked at the same time as the second: %+v", third)
		}
		dropped := false
		slow.cancel = func() { dropped = true }
		q.give(second)
		if !dropped || q.left != 0 {
			t.Errorf("the slower attempt goes on, %d left", q.left)
		}
		if q.leafDone(slow, 0, time.Now()) != 0 || q.left != 0 {
			t.Error("the same leaf was counted twice")
		}
	})
}

// A source gets a run after one fast block and is then slow, beside a source of single blocks:
// each hedged block makes room for the next.
func TestEveryLeafOfASlowRunIsHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 16, 64<<10)}, time.Now())
		start(q, mirrorNamed("trickles"))[0].nextRun = maxRun
		if slow := q.next(time.Now()); len(slow.leaves) != 16 {
			t.Fatalf("a run of %d leaves", len(slow.leaves))
		}
		single := mirrorNamed("single blocks")
		single.NoRuns.Store(true)
		start(q, single)
		time.Sleep(timing.HedgeAfter)
		for j := q.next(time.Now()); j != nil; j = q.next(time.Now()) {
			q.give(j)
		}
		if q.left > 0 {
			t.Errorf("%d leaves wait for the slow one", q.left)
		}
	})
}

func TestAnUnprovenSourceGetsNoHedgedRequestBesideAProvenOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
		start(q, mirrorNamed("proven"))
		unproven := q.addSource(mirrorNamed("new"))
		slow := q.next(time.Now())
		unproven.ready = true
		good := start(q, mirrorNamed("good"))[0]
		for range 10 {
			time.Sleep(timing.HedgeAfter)
			if j := q.next(time.Now()); j != nil {
				if j.source != good {
					t.Errorf("%s is asked for what %s does not bring", j.source.src, slow.source.src)
				}
				return
			}
		}
		t.Error("no request is made")
	})
}

func TestLeavesGoBackWhenTheirSourceFails(t *testing.T) {
	dl := partOf(t, 64, 1<<20)
	q := newQueue([]*download{dl}, time.Now())
	st := start(q, mirrorNamed("a"))[0]
	st.nextRun = maxRun
	j := q.next(time.Now())
	if len(j.leaves) != 4 || j.leaves[0] != 0 {
		t.Fatalf("a run of %d leaves from %d on, want 4 MiB from the beginning", len(j.leaves), j.leaves[0])
	}
	for i := range 3 {
		q.leafDone(j, i, time.Now())
	}
	q.jobDone(j, cas.ErrUnreachable, time.Now())
	if again := q.next(time.Now()); again.leaves[0] != 3 || q.left != 61 {
		t.Errorf("the next run begins at %d, %d left", again.leaves[0], q.left)
	}
}

func TestARunHasOnlyMissingLeaves(t *testing.T) {
	dl := partOf(t, 64, 1<<20)
	for _, i := range []int{0, 4, 5} {
		dl.complete(i)
	}
	q := newQueue([]*download{dl}, time.Now())
	start(q, mirrorNamed("a"))[0].nextRun = maxRun
	if j := q.next(time.Now()); j.leaves[0] != 1 || len(j.leaves) != 3 {
		t.Errorf("asked for %d leaves from %d on", len(j.leaves), j.leaves[0])
	}
}

func TestARunSkipsCompleteLeavesIfTheSourceSupportsGaps(t *testing.T) {
	dl := partOf(t, 512, 64<<10)
	for i := range 512 {
		if i%4 != 0 {
			dl.complete(i)
		}
	}
	q := newQueue([]*download{dl}, time.Now())
	st := start(q, mirrorNamed("ours"))[0]
	st.nextRun, st.window = maxRun, 2
	st.src.Gaps.Store(true)
	for _, first := range []int{0, 4 * (gateway.MaxGaps + 1)} {
		j := q.next(time.Now())
		if len(j.leaves) != gateway.MaxGaps+1 || j.leaves[0] != first || j.leaves[1] != first+4 {
			t.Errorf("asked for %v, want each fourth from %d on", j.leaves, first)
		}
	}
	q.give(q.jobs[1])
	q.jobDone(q.jobs[0], cas.ErrUnreachable, time.Now())
	if j := q.next(time.Now()); j.leaves[0] != 0 {
		t.Errorf("missing leaves are not requested again: %v", j.leaves)
	}
}

func TestAShortRunIsRequestedByLeafIfItRepeatsNodes(t *testing.T) {
	for repeats, want := range map[bool]int{false: 3, true: 1} {
		dl := partOf(t, 1000, 64<<10) // 50 KB of inner nodes
		for i := 3; i < 1000; i++ {
			dl.complete(i)
		}
		q := newQueue([]*download{dl}, time.Now())
		st := start(q, mirrorNamed("a"))[0]
		st.nextRun = maxRun
		st.src.Repeats.Store(repeats)
		if j := q.next(time.Now()); len(j.leaves) != want {
			t.Errorf("nodes come again: %t; a run of %d leaves, want %d", repeats, len(j.leaves), want)
		}
	}
}

func TestASourceIsNotAskedAgainForALeafThatItLacks(t *testing.T) {
	q := newQueue([]*download{partOf(t, 2, 1)}, time.Now())
	start(q, mirrorNamed("a"))
	for range 2 {
		j := q.next(time.Now())
		q.jobDone(j, cas.NotFound(j.download.leaves[j.leaves[0]].CID), time.Now())
	}
	if j := q.next(time.Now()); j != nil {
		t.Errorf("requested leaf %d again", j.leaves[0])
	}
	if why := q.exhausted(time.Now()); !errors.Is(why, fs.ErrNotExist) {
		t.Errorf("exhausted returns %v", why)
	}
}

func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong, lost, fine := mirrorNamed("wrong"), mirrorNamed("lost"), mirrorNamed("fine")
		wrong.RecordError(t.Context(), cas.ErrCorrupt)
		for !lost.State().Failing {
			lost.RecordError(t.Context(), cas.ErrUnreachable)
			time.Sleep(lost.State().Pause)
		}
		for name, row := range map[string]struct {
			sources []*peers.Source
			want    error
		}{
			"a good one is left": {[]*peers.Source{wrong, lost, fine}, nil},
			"only wrong bytes":   {[]*peers.Source{wrong}, cas.ErrCorrupt},
			"wrong beside lost":  {[]*peers.Source{lost, wrong}, cas.ErrCorrupt},
			"only lost":          {[]*peers.Source{lost}, cas.ErrUnreachable},
			"no source":          {nil, cas.ErrUnreachable},
		} {
			q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
			start(q, row.sources...)
			if why := q.exhausted(time.Now()); !errors.Is(why, row.want) || (row.want == nil) != (why == nil) {
				t.Errorf("%s: %v", name, why)
			}
		}
	})
}

func TestASourceOfLastResortIsUsedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := peers.NewSource(peers.KindPeer, "stock node", nil)
		last.SetEndpoints([]*peers.Endpoint{{Name: "bitswap", Blocks: cas.NewMemory()}})
		q := newQueue([]*download{partOf(t, 9, 1)}, time.Now())
		states := start(q, last, mirrorNamed("a"))
		for j := q.next(time.Now()); j != nil; j = q.next(time.Now()) {
			if j.source == states[0] {
				t.Fatal("the source of last resort is used while another one sends")
			}
		}
		time.Sleep(timing.LastResort + 1)
		if j := q.next(time.Now()); j == nil || j.source.src != last {
			t.Errorf("no block arrives, and the next job is %+v", j)
		}
	})
}

// The cost of a leaf must not grow with the size of the release, beside a source that answers
// "not found" for all leaves.
func BenchmarkLeafBesideASourceThatLacksEverything(b *testing.B) {
	for _, leaves := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("of %d", leaves), func(b *testing.B) {
			for b.Loop() {
				handOut(b, leaves)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*leaves), "ns/leaf")
		})
	}
}

func TestASourceThatLacksEverythingLosesNoLeaf(t *testing.T) { handOut(t, 1000) }

// handOut brings every leaf of a release from a good source, beside one that has none.
func handOut(t testing.TB, leaves int) {
	q := newQueue([]*download{partOf(t, leaves, 64<<10)}, time.Now())
	states := start(q, mirrorNamed("good"), mirrorNamed("has nothing"))
	for q.left > 0 {
		switch j := q.next(time.Now()); {
		case j == nil:
			t.Fatalf("%d leaves are left and no request is made", q.left)
		case j.source == states[0]:
			q.give(j)
		default:
			q.jobDone(j, fs.ErrNotExist, time.Now())
		}
	}
}

// A slow peer loses its request if there is another source.
func TestTheOnlyPeerMayBeSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		downloads := []*download{partOf(t, 4, 1)}
		q := newQueue(downloads, time.Now())
		q.swarm = &swarm{self: 1, downloads: downloads, owned: make([]bitfield, 1), available: []bitfield{newBitfield(4)}}
		q.swarm.assign([]uint64{1})
		slow := start(q, mirrorNamed("slow"))[0]
		q.swarm.update(slow, 0, []byte{0xf0}, time.Now())
		j := q.next(time.Now())
		if j == nil {
			t.Fatal("a peer with a full bitfield is not asked")
		}
		time.Sleep(2 * timing.StallLimit)
		q.swarm.refresh(q, time.Now())
		if why := q.exhausted(time.Now()); j.dropped || why != nil {
			t.Errorf("dropped %t, %v", j.dropped, why)
		}
		start(q, mirrorNamed("other"))
		q.swarm.refresh(q, time.Now())
		if !j.dropped {
			t.Error("its request is not dropped beside another source")
		}
		q.jobDone(j, cas.ErrUnreachable, time.Now())
		q.sources = q.sources[:1] // and the other is gone
		if why := q.exhausted(time.Now()); !errors.Is(why, cas.ErrUnreachable) {
			t.Errorf("a slow peer is no reason for another error: %v", why)
		}
	})
}

// The bitfield of a snubbed peer may still grow.
func TestASnubbedPeerOwnsNoLeaves(t *testing.T) {
	const leaves = 64
	now, downloads := time.Now(), []*download{partOf(t, leaves, 1)}
	q := newQueue(downloads, now)
	q.swarm = &swarm{self: 1, downloads: downloads, owned: make([]bitfield, 1), available: []bitfield{newBitfield(leaves)}}
	snubbed := start(q, mirrorNamed("snubbed"))[0]
	snubbed.proven = false
	ownedAfter := func(bits byte) int {
		now = now.Add(timing.PollPause)
		q.swarm.update(snubbed, 0, []byte{bits, 0, 0, 0, 0, 0, 0, 0}, now)
		q.swarm.refresh(q, now)
		return q.swarm.owned[0].count()
	}
	if n := ownedAfter(0x80); n == 0 || n == leaves {
		t.Fatalf("before the first request, this machine owns %d of %d leaves", n, leaves)
	}
	j := q.next(now)
	q.jobDone(j, cas.NotFound(j.download.leaves[0].CID), now)
	if n := ownedAfter(0xc0); n != leaves {
		t.Errorf("this machine owns %d of %d leaves", n, leaves)
	}
}

// The window of a static mirror follows the round trip, within the capacity of the line.
func TestTheWindowFollowsTheRoundTrip(t *testing.T) {
	for name, row := range map[string]struct {
		trip, took time.Duration
		window     int
		limit      int
		next       int
	}{
		"near":                         {2 * time.Millisecond, 3 * time.Millisecond, 5, 6, 6},
		"not known":                    {0, time.Second, 5, 6, 6},
		"50 ms, the first block":       {50 * time.Millisecond, 200 * time.Millisecond, 1, 30, 16},
		"50 ms, later":                 {50 * time.Millisecond, 60 * time.Millisecond, 30, 30, 30},
		"150 ms, the first block":      {150 * time.Millisecond, 600 * time.Millisecond, 1, 48, 16},
		"150 ms, the second":           {150 * time.Millisecond, 600 * time.Millisecond, 16, 48, 32},
		"300 ms":                       {300 * time.Millisecond, 1200 * time.Millisecond, 32, 48, 48},
		"150 ms, and the line is full": {150 * time.Millisecond, 2 * time.Second, 20, 19, 19},
		"150 ms, and the line is thin": {150 * time.Millisecond, 2 * time.Second, 1, 6, 2},
		"150 ms, and it has been full": {150 * time.Millisecond, 2 * time.Second, 6, 6, 6},
		"ten seconds":                  {10 * time.Second, 10 * time.Second, 48, 48, 48},
	} {
		limit, step := farWindow(blockWindow, row.window, row.trip, row.took)
		if next := min(row.window+step, limit); limit != row.limit || next != row.next {
			t.Errorf("%s: limit %d, next window %d; want %d and %d", name, limit, next, row.limit, row.next)
		}
	}
}

// A static mirror that has sent the metadata gets ranges of files at once, as many as its window has
// room for, and single blocks once it refuses them.
func TestAStaticMirrorGetsRanges(t *testing.T) {
	dl, now := partOf(t, 100, 64<<10), time.Now()
	dl.waiting.remove(10) // a range does not go on behind a leaf that is there
	q := newQueue([]*download{dl}, now)
	mirror := mirrorNamed("http://static")
	mirror.NoRuns.Store(true)
	mirror.Delivered(1)
	q.shuffled = true
	st := q.addSource(mirror)
	if q.openWindows(); st.proven {
		t.Error("the window of a near mirror was opened, although there may be peers")
	}
	q.shuffled, st.ready = false, true
	q.openWindows()
	var jobs []*job
	for j := q.next(now); j != nil; j = q.next(now) {
		if last := j.leaves[len(j.leaves)-1]; !j.ranged || last-j.leaves[0] != len(j.leaves)-1 || len(j.leaves) > sharedRun/(64<<10) {
			t.Errorf("job of leaves %v, ranged is %t", j.leaves, j.ranged)
		}
		jobs = append(jobs, j)
	}
	if len(jobs) != blockWindow/rangeWeight || len(jobs[0].leaves) != 10 {
		t.Fatalf("%d jobs, the first of leaves %v", len(jobs), jobs[0].leaves)
	}
	for _, j := range jobs {
		q.give(j)
	}
	if st.busy != 0 {
		t.Errorf("%d requests are under way", st.busy)
	}
	peer := peers.NewSource(peers.KindMDNS, "peer", nil)
	peer.NoRuns.Store(true)
	peer.SetEndpoints([]*peers.Endpoint{peers.GatewayEndpoint("peer", &gateway.Client{})})
	if peer.GivesRanges() {
		t.Error("a peer is asked for ranges")
	}
}

// farMirror returns a static mirror at a round trip of 200 ms that has sent the metadata, in a bubble.
func farMirror(t *testing.T, name string) *peers.Source {
	t.Helper()
	c := &gateway.Client{HTTP: &http.Client{Transport: answerAfter(200 * time.Millisecond)}, Base: name}
	if _, err := c.IPNS(t.Context(), "name"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s := peers.NewSource(peers.KindMirror, name, nil)
	s.SetEndpoints([]*peers.Endpoint{peers.GatewayEndpoint(name, c)})
	s.NoRuns.Store(true)
	s.Delivered(1)
	return s
}

// answerAfter is a server that has nothing, and the time of its answers.
type answerAfter time.Duration

func (a answerAfter) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(time.Duration(a))
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// The metadata opens the window of a far mirror only if the operator or root.json named it.
func TestAMirrorOfADHCPServerOpensNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for heard, want := range map[bool]int{false: maxJobs / rangeWeight, true: 1} {
			q := newQueue([]*download{partOf(t, 1000, 64<<10)}, time.Now())
			mirror := farMirror(t, "http://far")
			mirror.Heard = heard
			q.addSource(mirror).ready = true
			q.openWindows()
			jobs := 0
			for q.next(time.Now()) != nil {
				jobs++
			}
			if jobs != want {
				t.Errorf("named by a DHCP server: %t, %d requests, want %d", heard, jobs, want)
			}
		}
	})
}

// Several far mirrors share the ranges that the memory has room for. While all are under way, a slow
// one is hedged by single blocks.
func TestFarMirrorsShareTheRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 1000, 64<<10)}, time.Now())
		for i := range 3 {
			q.addSource(farMirror(t, fmt.Sprintf("http://far%d", i))).ready = true
		}
		q.openWindows()
		var jobs []*job
		for j := q.next(time.Now()); j != nil; j = q.next(time.Now()) {
			jobs = append(jobs, j)
		}
		if len(jobs) != maxRanges {
			t.Errorf("%d ranges", len(jobs))
		}
		for _, st := range q.sources {
			if st.busy != maxRanges*rangeWeight/3 {
				t.Errorf("%s has requests of weight %d", st.src, st.busy)
			}
		}
		time.Sleep(timing.HedgeAfter)
		if j := q.next(time.Now()); j == nil || !j.hedge || j.ranged {
			t.Errorf("the hedged request is %+v", j)
		}
		q.give(jobs[0])
		if j := q.next(time.Now()); j == nil || j.hedge || !j.ranged {
			t.Errorf("after a range, the next request is %+v", j)
		}
	})
}

// The share of a machine at a far origin is not fetched two blocks at a time.
func TestTheWindowOfASharedOriginFollowsTheRoundTrip(t *testing.T) {
	for trip, want := range map[time.Duration]int{time.Millisecond: 2, 50 * time.Millisecond: 10, 300 * time.Millisecond: 48} {
		if limit, _ := farWindow(sharedWindow, 1, trip, trip); limit != want {
			t.Errorf("%s: %d, want %d", trip, limit, want)
		}
	}
}
