package publisher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

const (
	// The DHT's nodes keep records in memory. A private DHT may have a single node, whose
	// restart must not hide this publisher for long.
	privateSweep = 5 * time.Minute
	publicSweep  = 11 * time.Hour

	sweepInterval     = 250 * time.Millisecond // least time between two announcements of a sweep
	parallelAnnounces = 8                      // new announcements at once
	announceTimeout   = 2 * time.Minute        // for one announcement of a sweep
)

// An announcer writes the records of what is served into the DHT: new ones at once, and all
// again, one by one, spread over a sweep.
type announcer struct {
	*server
	sweep time.Duration

	mu   sync.Mutex
	last map[cid.Cid]time.Time // last announcement of each CID; the zero time before the first; cid.Undef is the IPNS record
}

type announced struct {
	oldest time.Time // announcement; zero until all are made
	count  int
}

// announce runs an announcer until ctx ends.
func (s *server) announce(ctx context.Context) {
	a := &announcer{server: s, sweep: privateSweep, last: map[cid.Cid]time.Time{}}
	if s.DHT == DHTPublic {
		a.sweep = publicSweep
	}
	logged := false // that there is no other node
	for ctx.Err() == nil {
		current, moved := s.source.current()
		a.replace(ctx, s.source.roots())
		round, cancel := until(ctx, moved)
		if a.announceNew(round, current) {
			a.sweepAll(round)
		} else if !logged && a.last[cid.Undef].IsZero() { // otherwise one round was too short for all
			logged = true
			s.Log.Info("no other DHT node yet", "remedy", "name one with --bootstrap; machines that know this publisher's address, or are on its network (mDNS), find it without")
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

// replace sets the CIDs that are announced. This process's own DHT node holds their records
// at once; the record of a new pointer is announced again.
func (a *announcer) replace(ctx context.Context, roots []cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := map[cid.Cid]time.Time{cid.Undef: {}}
	for _, c := range roots {
		last[c] = a.last[c]
		if err := a.node.ProvideLocal(ctx, c); err != nil && ctx.Err() == nil {
			a.warn(err)
		}
	}
	a.last = last
	a.publishState()
}

func (a *announcer) warn(err error) { a.Log.Warn("DHT announcement failed", "cause", err) }

// announceNew announces the IPNS record and every CID that was never announced, for as long
// as a sweep. It returns false when no other node accepted a record in that time.
func (a *announcer) announceNew(ctx context.Context, g *generation) bool {
	limit, cancel := context.WithTimeout(ctx, a.sweep)
	defer cancel()
	group, gctx := errgroup.WithContext(limit)
	group.SetLimit(parallelAnnounces)
	for _, c := range a.neverAnnounced() {
		group.Go(func() error { return a.announceOne(gctx, c) })
	}
	err := group.Wait()
	switch {
	case err == nil:
		a.Log.Info("announced in the DHT", "folder", g.Folder, "timestamp", g.Timestamp, "cids", len(a.last)-1)
	case limit.Err() == nil:
		a.warn(err)
	}
	return ctx.Err() != nil || !errors.Is(limit.Err(), context.DeadlineExceeded)
}

// neverAnnounced lists the IPNS record first.
func (a *announcer) neverAnnounced() []cid.Cid {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []cid.Cid{cid.Undef}
	for c, when := range a.last {
		if c.Defined() && when.IsZero() {
			list = append(list, c)
		}
	}
	return list
}

// sweepAll announces at each tick what was announced least recently, until ctx ends.
func (a *announcer) sweepAll(ctx context.Context) {
	tick := time.NewTicker(max(a.sweep/time.Duration(len(a.last)), sweepInterval))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		limit, cancel := context.WithTimeout(ctx, announceTimeout)
		if err := a.announceOne(limit, a.next()); err != nil && ctx.Err() == nil {
			a.warn(err)
		}
		cancel()
	}
}

// next is the CID that was announced least recently; cid.Undef for the record.
func (a *announcer) next() cid.Cid {
	a.mu.Lock()
	defer a.mu.Unlock()
	least, when := cid.Undef, a.last[cid.Undef]
	for c, t := range a.last {
		if t.Before(when) {
			least, when = c, t
		}
	}
	return least
}

// announceOne announces a CID; cid.Undef is the IPNS record.
func (a *announcer) announceOne(ctx context.Context, c cid.Cid) error {
	if !c.Defined() {
		r := a.record()
		record, err := r.Get(ctx, r.Name)
		if err == nil {
			err = a.node.PutIPNS(ctx, r.Name, record)
		}
		if err != nil {
			return fmt.Errorf("IPNS record: %w", err)
		}
	} else if err := a.node.Provide(ctx, c); err != nil {
		return fmt.Errorf("provide %s: %w", c, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last[c] = a.Now()
	a.publishState()
	return nil
}

// publishState gives the metrics the age of the oldest announcement. The caller has the lock.
func (a *announcer) publishState() {
	oldest := slices.MinFunc(slices.Collect(maps.Values(a.last)), time.Time.Compare)
	a.announced.Store(&announced{oldest, len(a.last) - 1})
}
