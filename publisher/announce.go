package publisher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

const (
	// The DHT's nodes keep what they were told in memory. In a private one there may be
	// a single node, whose restart must not hide us for long.
	privateSweep = 5 * time.Minute
	publicSweep  = 11 * time.Hour

	sweepPace = 250 * time.Millisecond // least time between two announcements of a sweep
	tellMost  = 8                      // new ones that are told at once
	tellLimit = 2 * time.Minute        // for one announcement of a sweep
)

// An announcer tells the DHT what is served: what is new at once, and everything again,
// one by one, spread over a sweep.
type announcer struct {
	*server
	sweep time.Duration

	mu     sync.Mutex
	told   map[cid.Cid]time.Time // when; a zero time for what is not told yet
	record time.Time             // the same for the IPNS record
}

// announced is what an announcer says of itself.
type announced struct {
	mu     sync.Mutex
	oldest time.Time
	count  int
}

func (a *announced) get() (oldest time.Time, count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.oldest, a.count
}

func (a *announced) set(oldest time.Time, count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.oldest, a.count = oldest, count
}

// announce runs until ctx ends.
func (s *server) announce(ctx context.Context) {
	a := &announcer{server: s, sweep: privateSweep, told: map[cid.Cid]time.Time{}}
	if s.DHT == DHTPublic {
		a.sweep = publicSweep
	}
	alone := false // said already
	for ctx.Err() == nil {
		head, moved := s.heads.current()
		a.take(ctx, s.heads.announced())
		round, cancel := until(ctx, moved)
		if a.tellNew(round, head) {
			a.sweepAll(round)
		} else if !alone && a.record.IsZero() { // else there were too many for one round
			alone = true
			s.Log.Info("no other DHT node yet; machines that know this one find it, and so do neighbours with mDNS; --bootstrap names another")
		}
		cancel()
	}
}

// until ends ctx when moved closes.
func until(ctx context.Context, moved <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// take replaces what is announced. Our own DHT node knows all of it from the first
// moment; a new head's record is to be told anew.
func (a *announcer) take(ctx context.Context, held []cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := make(map[cid.Cid]time.Time, len(held))
	for _, c := range held {
		told[c] = a.told[c]
		if err := a.node.Hold(ctx, c); err != nil && ctx.Err() == nil {
			a.Log.Warn("DHT", "cause", err)
		}
	}
	a.told, a.record = told, time.Time{}
	a.tally()
}

// tellNew tells the record and what was never told, for as long as a sweep; false says
// that in all that time there was nobody to tell.
func (a *announcer) tellNew(ctx context.Context, h *Head) bool {
	limit, cancel := context.WithTimeout(ctx, a.sweep)
	defer cancel()
	group, gctx := errgroup.WithContext(limit)
	group.SetLimit(tellMost)
	group.Go(func() error { return a.tell(gctx, cid.Undef) })
	for _, c := range a.fresh() {
		group.Go(func() error { return a.tell(gctx, c) })
	}
	err := group.Wait()
	switch {
	case err == nil:
		a.Log.Info("announced in the DHT", "folder", h.Folder, "sequence", h.Timestamp, "cids", len(a.told))
	case limit.Err() == nil:
		a.Log.Warn("DHT", "cause", err)
	}
	return ctx.Err() != nil || !errors.Is(limit.Err(), context.DeadlineExceeded)
}

func (a *announcer) fresh() (list []cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c, when := range a.told {
		if when.IsZero() {
			list = append(list, c)
		}
	}
	return list
}

// sweepAll tells the least recently told thing at each tick, until ctx ends.
func (a *announcer) sweepAll(ctx context.Context) {
	tick := time.NewTicker(max(a.sweep/time.Duration(len(a.told)+1), sweepPace))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		limit, cancel := context.WithTimeout(ctx, tellLimit)
		if err := a.tell(limit, a.next()); err != nil && ctx.Err() == nil {
			a.Log.Warn("DHT", "cause", err)
		}
		cancel()
	}
}

// next is what was told least recently; cid.Undef for the record.
func (a *announcer) next() cid.Cid {
	a.mu.Lock()
	defer a.mu.Unlock()
	least, when := cid.Undef, a.record
	for c, t := range a.told {
		if t.Before(when) {
			least, when = c, t
		}
	}
	return least
}

// tell announces one thing; cid.Undef is the record.
func (a *announcer) tell(ctx context.Context, c cid.Cid) error {
	if !c.Defined() {
		record, err := a.records.get(ctx, a.records.name)
		if err == nil {
			err = a.node.PutIPNS(ctx, a.records.name, record)
		}
		if err != nil {
			return fmt.Errorf("IPNS record: %w", err)
		}
	} else if err := a.node.Provide(ctx, c); err != nil {
		return fmt.Errorf("provide %s: %w", c, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Defined() {
		a.told[c] = a.Now()
	} else {
		a.record = a.Now()
	}
	a.tally()
	return nil
}

// tally says how old the oldest announcement is.
func (a *announcer) tally() {
	oldest := a.record
	for _, t := range a.told {
		if t.Before(oldest) {
			oldest = t
		}
	}
	a.announced.set(oldest, len(a.told))
}
