package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

func leaf(n byte) *task {
	return &task{leaf: cas.Leaf{CID: cas.Sum(cid.Raw, []byte{n}), Size: 1}}
}

func mirrorNamed(name string) *source { return newSource(kindMirror, name, nil) }

func TestTheLastLeafIsAskedOfASecondSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*task{leaf(1)})
		slow, idle, third := mirrorNamed("slow"), mirrorNamed("idle"), mirrorNamed("third")
		first, slowCtx := q.take(t.Context(), slow)
		start := time.Now()
		again, _ := q.take(t.Context(), idle)
		if again != first || time.Since(start) != hedgeAfter {
			t.Errorf("the idle source got %v after %s", again, time.Since(start))
		}
		nothing := make(chan *task)
		go func() {
			other, _ := q.take(t.Context(), third)
			nothing <- other
		}()
		if !q.give(idle, again, nil) {
			t.Error("the first bytes to arrive were not taken")
		}
		if slowCtx.Err() == nil {
			t.Error("the slower attempt goes on")
		}
		if q.give(slow, first, nil) {
			t.Error("the same leaf was taken twice")
		}
		q.settled()
		if got := <-nothing; got != nil || !q.ended() {
			t.Errorf("a third source was asked: %v", got)
		}
	})
}

func TestALeafGoesBackWhenItsSourceFails(t *testing.T) {
	q := newQueue([]*task{leaf(1)})
	a, b := mirrorNamed("a"), mirrorNamed("b")
	first, _ := q.take(t.Context(), a)
	q.give(a, first, cas.ErrUnreachable)
	if got, _ := q.take(t.Context(), b); got != first {
		t.Errorf("b got %v", got)
	}
}

func TestASourceIsNotAskedAgainForWhatItLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue([]*task{leaf(1), leaf(2)})
		a := mirrorNamed("a")
		first, _ := q.take(t.Context(), a)
		q.give(a, first, cas.NotFound(first.leaf.CID))
		second, _ := q.take(t.Context(), a)
		if second == first {
			t.Error("asked for it again")
		}
		q.give(a, second, cas.NotFound(second.leaf.CID))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		context.AfterFunc(ctx, q.wake)
		if got, _ := q.take(ctx, a); got != nil {
			t.Errorf("got %v", got)
		}
		if _, why := q.hopeless([]*source{a}); !errors.Is(why, fs.ErrNotExist) {
			t.Errorf("hopeless says %v", why)
		}
	})
}

func TestHopeless(t *testing.T) {
	wrong, lost, fine := mirrorNamed("wrong"), mirrorNamed("lost"), mirrorNamed("fine")
	wrong.ban(cas.ErrCorrupt)
	for range failing {
		lost.pauseEnd = time.Time{}
		lost.failed(cas.ErrUnreachable)
	}
	q := newQueue([]*task{leaf(1)})
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
		if _, why := q.hopeless(row.sources); !errors.Is(why, row.want) || (row.want == nil) != (why == nil) {
			t.Errorf("%s: %v", name, why)
		}
	}
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
		if _, _, wait, _ := s.state(); wait != maxPause {
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

// A source that lacks everything and says so at once, beside a good one: what a leaf
// costs must not grow with the size of the release.
func BenchmarkLeafBesideASourceThatLacksEverything(b *testing.B) {
	for _, leaves := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("of %d", leaves), func(b *testing.B) {
			for b.Loop() {
				handOut(b.Context(), leaves)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*leaves), "ns/leaf")
		})
	}
}

func TestASourceThatLacksEverythingLosesNoLeaf(t *testing.T) {
	handOut(t.Context(), 1000)
}

// handOut gives every leaf of a release to a good source while another lacks them all.
func handOut(ctx context.Context, leaves int) {
	tasks := make([]*task, leaves)
	for i := range tasks {
		tasks[i] = leaf(0)
	}
	q := newQueue(tasks)
	good, lacks := mirrorNamed("good"), mirrorNamed("lacks")
	var askers sync.WaitGroup
	for range window {
		askers.Go(func() {
			for {
				task, _ := q.take(ctx, lacks)
				if task == nil {
					return
				}
				q.give(lacks, task, fs.ErrNotExist)
			}
		})
	}
	for !q.ended() {
		task, _ := q.take(ctx, good)
		if q.give(good, task, nil) {
			q.settled()
		}
	}
	askers.Wait()
}
