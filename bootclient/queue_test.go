package bootclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// partOf is an artifact of n leaves of the given size.
func partOf(t testing.TB, n int, size int64) *download {
	t.Helper()
	p := &download{Artifact: manifest.Artifact{Role: manifest.RoleRootfs, Length: int64(n) * size}}
	for i := range n {
		name := cas.Sum(cid.Raw, binary.BigEndian.AppendUint64(nil, uint64(i)))
		p.leaves = append(p.leaves, cas.Leaf{CID: name, Offset: int64(i) * size, Size: size})
	}
	if err := link([]*download{p}); err != nil {
		t.Fatal(err)
	}
	return p
}

func mirrorNamed(name string) *source {
	s := newSource(kindMirror, name, nil)
	s.ways = []*way{gatewayWay(name, &gateway.Client{})}
	return s
}

// start seats sources that have given a block before.
func start(q *queue, sources ...*source) []*sourceState {
	var out []*sourceState
	for _, s := range sources {
		st := q.addSource(s)
		st.joined, st.proven = true, true
		out = append(out, st)
	}
	return out
}

// give brings every leaf of a job.
func (q *queue) give(j *job) {
	for _, i := range j.leaves {
		q.landed(j, i, time.Now())
	}
	q.ended(j, nil, time.Now())
}

func TestWhatComesInSlowlyIsAskedOfAnotherSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
		start(q, mirrorNamed("one"), mirrorNamed("two"), mirrorNamed("three"))
		slow := q.next(time.Now())
		if again := q.next(time.Now()); again != nil {
			t.Errorf("asked twice at once: %+v", again)
		}
		time.Sleep(hedgeAfter)
		second := q.next(time.Now())
		if second == nil || second.source == slow.source || second.leaves[0] != slow.leaves[0] {
			t.Fatalf("the idle sources got %+v", second)
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
		if q.landed(slow, 0, time.Now()) != 0 || q.left != 0 {
			t.Error("the same leaf was counted twice")
		}
	})
}

// A source that earned a run by one fast block and then trickles, beside one that gives
// single blocks: each block that helps makes place for the next.
func TestAllOfASlowRunIsAskedOfAnotherSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 16, 64<<10)}, time.Now())
		start(q, mirrorNamed("trickles"))[0].unit = maxRun
		if slow := q.next(time.Now()); len(slow.leaves) != 16 {
			t.Fatalf("a run of %d leaves", len(slow.leaves))
		}
		single := mirrorNamed("single blocks")
		single.noRuns.Store(true)
		start(q, single)
		time.Sleep(hedgeAfter)
		for j := q.next(time.Now()); j != nil; j = q.next(time.Now()) {
			q.give(j)
		}
		if q.left > 0 {
			t.Errorf("%d leaves wait for the slow one", q.left)
		}
	})
}

func TestAnUnprovenSourceDoesNotHelpWhereAProvenOneMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
		start(q, mirrorNamed("proven"))
		unproven := q.addSource(mirrorNamed("new"))
		slow := q.next(time.Now())
		unproven.joined = true
		good := start(q, mirrorNamed("good"))[0]
		for range 10 {
			time.Sleep(hedgeAfter)
			if j := q.next(time.Now()); j != nil {
				if j.source != good {
					t.Errorf("%s is asked for what %s does not bring", j.source.src, slow.source.src)
				}
				return
			}
		}
		t.Error("nobody is asked")
	})
}

func TestLeavesGoBackWhenTheirSourceFails(t *testing.T) {
	p := partOf(t, 64, 1<<20)
	q := newQueue([]*download{p}, time.Now())
	st := start(q, mirrorNamed("a"))[0]
	st.unit = maxRun
	j := q.next(time.Now())
	if len(j.leaves) != 4 || j.leaves[0] != 0 {
		t.Fatalf("a run of %d leaves from %d on, want 4 MiB from the beginning", len(j.leaves), j.leaves[0])
	}
	for i := range 3 {
		q.landed(j, i, time.Now())
	}
	q.ended(j, cas.ErrUnreachable, time.Now())
	if again := q.next(time.Now()); again.leaves[0] != 3 || q.left != 61 {
		t.Errorf("the next run begins at %d, %d left", again.leaves[0], q.left)
	}
}

func TestARunHoldsOnlyWhatIsMissing(t *testing.T) {
	p := partOf(t, 64, 1<<20)
	for _, i := range []int{0, 4, 5} {
		p.landed(i)
	}
	q := newQueue([]*download{p}, time.Now())
	start(q, mirrorNamed("a"))[0].unit = maxRun
	if j := q.next(time.Now()); j.leaves[0] != 1 || len(j.leaves) != 3 {
		t.Errorf("asked for %d leaves from %d on", len(j.leaves), j.leaves[0])
	}
}

func TestARunLeavesOutWhatIsThereWhereTheSourceTakesGaps(t *testing.T) {
	p := partOf(t, 512, 64<<10)
	for i := range 512 {
		if i%4 != 0 {
			p.landed(i)
		}
	}
	q := newQueue([]*download{p}, time.Now())
	st := start(q, mirrorNamed("ours"))[0]
	st.unit, st.window = maxRun, 2
	st.src.gaps.Store(true)
	for _, first := range []int{0, 4 * (gateway.MaxGaps + 1)} {
		j := q.next(time.Now())
		if len(j.leaves) != gateway.MaxGaps+1 || j.leaves[0] != first || j.leaves[1] != first+4 {
			t.Errorf("asked for %v, want each fourth from %d on", j.leaves, first)
		}
	}
	q.give(q.jobs[1])
	q.ended(q.jobs[0], cas.ErrUnreachable, time.Now())
	if j := q.next(time.Now()); j.leaves[0] != 0 {
		t.Errorf("what did not come waits: asked for %v", j.leaves)
	}
}

func TestAShortRunIsAskedForLeafByLeafWhereItRepeatsNodes(t *testing.T) {
	for repeats, want := range map[bool]int{false: 3, true: 1} {
		p := partOf(t, 1000, 64<<10) // 50 KB of inner nodes
		for i := 3; i < 1000; i++ {
			p.landed(i)
		}
		q := newQueue([]*download{p}, time.Now())
		st := start(q, mirrorNamed("a"))[0]
		st.unit = maxRun
		st.src.repeats.Store(repeats)
		if j := q.next(time.Now()); len(j.leaves) != want {
			t.Errorf("nodes come again: %t; a run of %d leaves, want %d", repeats, len(j.leaves), want)
		}
	}
}

func TestASourceIsNotAskedAgainForWhatItLacks(t *testing.T) {
	q := newQueue([]*download{partOf(t, 2, 1)}, time.Now())
	start(q, mirrorNamed("a"))
	for range 2 {
		j := q.next(time.Now())
		q.ended(j, cas.NotFound(j.download.leaves[j.leaves[0]].CID), time.Now())
	}
	if j := q.next(time.Now()); j != nil {
		t.Errorf("asked again for %d", j.leaves[0])
	}
	if why := q.exhausted(time.Now()); !errors.Is(why, fs.ErrNotExist) {
		t.Errorf("hopeless says %v", why)
	}
}

func TestHopeless(t *testing.T) {
	wrong, lost, fine := mirrorNamed("wrong"), mirrorNamed("lost"), mirrorNamed("fine")
	wrong.ban(cas.ErrCorrupt)
	for range failing {
		lost.pauseEnd = time.Time{}
		lost.failed(cas.ErrUnreachable)
	}
	for name, row := range map[string]struct {
		sources []*source
		want    error
	}{
		"a good one is left":    {[]*source{wrong, lost, fine}, nil},
		"only wrong bytes":      {[]*source{wrong}, cas.ErrCorrupt},
		"wrong beside lost":     {[]*source{lost, wrong}, cas.ErrCorrupt},
		"only lost":             {[]*source{lost}, cas.ErrUnreachable},
		"nobody was ever there": {nil, cas.ErrUnreachable},
	} {
		q := newQueue([]*download{partOf(t, 1, 1)}, time.Now())
		start(q, row.sources...)
		if why := q.exhausted(time.Now()); !errors.Is(why, row.want) || (row.want == nil) != (why == nil) {
			t.Errorf("%s: %v", name, why)
		}
	}
}

func TestASourceOfLastResortWaitsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := newSource(kindPeer, "stock node", nil)
		last.ways = []*way{{name: "bitswap", blocks: cas.NewMemory()}}
		q := newQueue([]*download{partOf(t, 9, 1)}, time.Now())
		seats := start(q, last, mirrorNamed("a"))
		for j := q.next(time.Now()); j != nil; j = q.next(time.Now()) {
			if j.source == seats[0] {
				t.Fatal("the last one is asked while another serves")
			}
		}
		time.Sleep(lastResort + 1)
		if j := q.next(time.Now()); j == nil || j.source.src != last {
			t.Errorf("nothing comes in, and the next job is %+v", j)
		}
	})
}

func TestPausesGrowAndStopAtALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mirrorNamed("a")
		for range 12 {
			s.failed(cas.ErrUnreachable)
			s.failed(cas.ErrUnreachable) // of the same outage
			_, _, wait, _ := s.state()
			time.Sleep(wait)
		}
		if s.fails != 12 {
			t.Errorf("%d outages counted", s.fails)
		}
		s.failed(cas.ErrUnreachable)
		if _, _, wait, _ := s.state(); wait != usual.failMax {
			t.Errorf("pause is %s", wait)
		}
		if len(s.snapshot().Faults) != 1 {
			t.Errorf("faults: %v", s.stats.Faults)
		}
		s.gave(1)
		if _, isFailing, wait, _ := s.state(); isFailing || wait > 0 {
			t.Error("a block that came did not end the pause")
		}
	})
}

func TestABusySourceRestsAndIsNotBlamed(t *testing.T) {
	s := mirrorNamed("a")
	for range 20 {
		s.blame(t.Context(), fmt.Errorf("asked: %w", &gateway.BusyError{After: 3 * time.Second}))
	}
	_, isFailing, wait, verdict := s.state()
	if isFailing || verdict != nil || wait < 2*time.Second || wait > 3*time.Second || len(s.snapshot().Faults) != 0 {
		t.Errorf("failing %t, banned for %v, waits %s, faults %v", isFailing, verdict, wait, s.snapshot().Faults)
	}
}

func TestTextFromOutsideIsMadeSafeForAConsole(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"two\nlines":             "two lines",
		"\x1b[31mred\x1b[0m":     "[31mred[0m",
		"rtl \u202Ereversed":     "rtl reversed",
		"bell\a, nul\x00, tab\t": "bell, nul, tab ",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := clean(strings.Repeat("ä", 1000)); len(got) > maxWords+4 {
		t.Errorf("%d bytes", len(got))
	}
}

// What a leaf costs must not grow with the size of the release, beside a source that
// lacks everything and says so.
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

// handOut gives every leaf of a release to a good source while another lacks them all.
func handOut(t testing.TB, leaves int) {
	q := newQueue([]*download{partOf(t, leaves, 64<<10)}, time.Now())
	seats := start(q, mirrorNamed("good"), mirrorNamed("lacks"))
	for q.left > 0 {
		switch j := q.next(time.Now()); {
		case j == nil:
			t.Fatalf("%d leaves are left and nobody is asked", q.left)
		case j.source == seats[0]:
			q.give(j)
		default:
			q.ended(j, fs.ErrNotExist, time.Now())
		}
	}
}

// A neighbour that is slow loses its job to somebody else, if there is anybody else.
func TestTheOnlyNeighbourMayBeSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts := []*download{partOf(t, 4, 1)}
		q := newQueue(parts, time.Now())
		q.swarm = &swarm{self: 1, downloads: parts, owned: make([]bitfield, 1), available: []bitfield{newBitfield(4)}}
		q.swarm.assign([]uint64{1})
		slow := start(q, mirrorNamed("slow"))[0]
		q.swarm.update(slow, 0, []byte{0xf0}, time.Now())
		j := q.next(time.Now())
		if j == nil {
			t.Fatal("a neighbour that has all is not asked")
		}
		time.Sleep(2 * stallLimit)
		q.swarm.refresh(q, time.Now())
		if why := q.exhausted(time.Now()); j.dropped || why != nil {
			t.Errorf("dropped %t, %v", j.dropped, why)
		}
		start(q, mirrorNamed("other"))
		q.swarm.refresh(q, time.Now())
		if !j.dropped {
			t.Error("it goes on beside another source")
		}
		q.ended(j, cas.ErrUnreachable, time.Now())
		q.sources = q.sources[:1] // and the other is gone
		if why := q.exhausted(time.Now()); !errors.Is(why, cas.ErrUnreachable) {
			t.Errorf("what it has is lost for good: %v", why)
		}
	})
}

// A liar says again and again that it has one leaf more, as an honest machine would.
func TestNothingIsLeftToANeighbourThatKeptItsFirstBlockBack(t *testing.T) {
	const leaves = 64
	now, parts := time.Now(), []*download{partOf(t, leaves, 1)}
	q := newQueue(parts, now)
	q.swarm = &swarm{self: 1, downloads: parts, owned: make([]bitfield, 1), available: []bitfield{newBitfield(leaves)}}
	liar := start(q, mirrorNamed("liar"))[0]
	liar.proven = false
	says := func(bits byte) int {
		now = now.Add(pollPause)
		q.swarm.update(liar, 0, []byte{bits, 0, 0, 0, 0, 0, 0, 0}, now)
		q.swarm.refresh(q, now)
		return q.swarm.owned[0].count()
	}
	if n := says(0x80); n == 0 || n == leaves {
		t.Fatalf("before it is asked, %d of %d leaves are ours", n, leaves)
	}
	j := q.next(now)
	q.ended(j, cas.NotFound(j.download.leaves[0].CID), now)
	if n := says(0xc0); n != leaves {
		t.Errorf("%d of %d leaves are ours", n, leaves)
	}
}

// What is asked of a static mirror at once follows the round trip, within what the line takes.
func TestTheWindowFollowsTheRoundTrip(t *testing.T) {
	for name, row := range map[string]struct {
		trip, took time.Duration
		window     int
		limit      int
		next       int
	}{
		"near":                          {2 * time.Millisecond, 3 * time.Millisecond, 5, 6, 6},
		"not known":                     {0, time.Second, 5, 6, 6},
		"50 ms, the first block":        {50 * time.Millisecond, 200 * time.Millisecond, 1, 30, 16},
		"50 ms, later":                  {50 * time.Millisecond, 60 * time.Millisecond, 30, 30, 30},
		"150 ms, the first block":       {150 * time.Millisecond, 600 * time.Millisecond, 1, 48, 16},
		"150 ms, the second":            {150 * time.Millisecond, 600 * time.Millisecond, 16, 48, 32},
		"300 ms":                        {300 * time.Millisecond, 1200 * time.Millisecond, 32, 48, 48},
		"150 ms, and the line is full":  {150 * time.Millisecond, 2 * time.Second, 20, 19, 19},
		"150 ms, and the line is thin":  {150 * time.Millisecond, 2 * time.Second, 1, 6, 2},
		"150 ms, and it has been full":  {150 * time.Millisecond, 2 * time.Second, 6, 6, 6},
		"ten seconds, whatever that is": {10 * time.Second, 10 * time.Second, 48, 48, 48},
	} {
		st := &sourceState{window: row.window}
		limit, step := st.farWindow(row.trip, row.took)
		if next := min(row.window+step, limit); limit != row.limit || next != row.next {
			t.Errorf("%s: limit %d, next window %d; want %d and %d", name, limit, next, row.limit, row.next)
		}
	}
}
