package publisher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

const (
	storeWait  = 2 * time.Second  // how long the operator's requests wait for an object store
	storeProbe = 10 * time.Second // between two questions whether it answers
)

// storeOutage is whether an object store answers, and its last figures.
type storeOutage struct {
	mu    sync.Mutex // one question at a time
	asked time.Time
	began time.Time
	err   error // nil while it answers
	stats pack.Stats
}

// askStore returns an error while an object store does not answer, after storeWait at most. It wraps cas.ErrUnreachable,
// and stays the same during an outage. A store in a folder always answers.
func (s *server) askStore(ctx context.Context) error {
	b, ok := s.packs.(*bucket.Store)
	if !ok {
		return nil
	}
	o := &s.outage
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.asked) < storeWait {
		return o.err
	}
	limited, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	err := b.Answers(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	o.asked = time.Now()
	s.noteAnswer(b, err)
	return o.err
}

// noteAnswer notes and logs the begin and the end of an outage.
func (s *server) noteAnswer(b *bucket.Store, err error) {
	o := &s.outage
	switch {
	case err == nil && o.err != nil:
		s.Log.Info("object store answers again", "store", b.String(), "after", s.Now().Sub(o.began).Round(time.Second))
		o.err = nil
	case err != nil && o.err == nil:
		o.began = s.Now().UTC()
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", storeWait)
		}
		o.err = fmt.Errorf("store %s: %w since %s: %w; check the object store at %s", b, cas.ErrUnreachable, o.began.Format(time.RFC3339), err, b.Endpoint)
		s.Log.Error("object store does not answer", "cause", o.err)
	}
}

// watchStore notices an outage without a request.
func (s *server) watchStore(ctx context.Context) {
	tick := time.NewTicker(storeProbe)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = s.askStore(ctx) // it is logged
		}
	}
}

// storeStats returns the figures of the store; the last ones if an object store does not answer in time.
func (s *server) storeStats(ctx context.Context) pack.Stats {
	limited, cancel := s.limitStore(ctx)
	defer cancel()
	err := s.askStore(ctx)
	var n pack.Stats
	if err == nil {
		n, err = s.packs.Stats(limited) // an error while the daemon stops, too
	}
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	if err == nil {
		s.outage.stats = n
	}
	return s.outage.stats
}

// limitStore bounds the time of a request to an object store. A folder on a slow disk may take longer.
func (s *server) limitStore(ctx context.Context) (context.Context, context.CancelFunc) {
	if bucket.Is(s.Store) {
		return context.WithTimeout(ctx, storeWait)
	}
	return context.WithCancel(ctx)
}

// lastCheck is checkStore for the operator's requests. If an object store does not answer in time, or a long check is
// under way, it returns the result of the last check.
func (s *server) lastCheck(ctx context.Context) error {
	if err := s.askStore(ctx); err != nil {
		return err
	}
	h := &s.storeHealth
	if !bucket.Is(s.Store) {
		return s.checkStore(ctx)
	}
	if !h.checking.TryLock() {
		return h.last()
	}
	defer h.checking.Unlock()
	limited, cancel := s.limitStore(ctx)
	defer cancel()
	err := s.checkLocked(limited)
	if limited.Err() != nil {
		return h.last()
	}
	return err
}
