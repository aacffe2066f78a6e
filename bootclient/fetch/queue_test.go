package fetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
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
