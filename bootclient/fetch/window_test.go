package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

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
