package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	slotWait     = time.Second // for a request to get an upload slot
	slotQueue    = 8           // requests that may wait, for each slot
	turnSize     = 4 << 20     // bytes of a CAR or a target, after which its slot goes to a waiting request
	turnWaits    = 4           // times slotWait that a CAR may wait for its next turn
	minSlotBlock = 16 << 10    // bytes: a smaller raw block needs no slot
)

// errBusy means that no upload slot became free in time.
var errBusy = errors.New("busy: all upload slots are taken")

// slots is a semaphore for the block and CAR responses that may be in progress at a time, fair
// between clients. A free slot goes to the waiting client that holds the fewest, and among those
// to the one that waits longest. A client holds at most half of the slots, so that there is
// always one for another client.
type slots struct {
	max, maxPerClient int
	wait              time.Duration

	mu       sync.Mutex
	used     int
	waiting  int
	clients  map[string]*clientSlots
	arrivals int64 // requests that have waited so far
}

// clientSlots are the slots that one client holds and its requests that wait, oldest first.
type clientSlots struct {
	held    int
	waiting []*waiter
}

type waiter struct {
	arrival int64
	granted chan struct{} // closed when it gets a slot
}

// newSlots returns n slots, or so many that they are no limit if n is not positive.
func newSlots(n int, wait time.Duration) *slots {
	if n <= 0 {
		n = 1 << 30
	}
	return &slots{max: n, maxPerClient: (n + 1) / 2, wait: wait, clients: map[string]*clientSlots{}}
}

// tryAcquire takes a slot for a client if there is one now.
func (s *slots) tryAcquire(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(key)
	if s.used == s.max || c.held == s.maxPerClient || len(c.waiting) > 0 {
		s.dropEmpty(key, c)
		return false
	}
	s.used++
	c.held++
	return true
}

// acquire waits for a slot. The error is errBusy, or that of ctx.
func (s *slots) acquire(ctx context.Context, key string) error {
	return s.acquireWithin(ctx, key, s.wait)
}

func (s *slots) acquireWithin(ctx context.Context, key string, wait time.Duration) error {
	if s.tryAcquire(key) {
		return nil
	}
	t := s.enqueue(key)
	if t == nil {
		return errBusy
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-t.granted:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if !s.dequeue(key, t) { // it was granted just now
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errBusy
}

// enqueue adds a request to the queue, or returns nil if the queue is full. The first request of
// a client is always added: other clients that fill the queue do not keep it out.
func (s *slots) enqueue(key string) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(key)
	if len(c.waiting) > 0 && s.waiting >= slotQueue*s.max || len(c.waiting) >= slotQueue*s.maxPerClient {
		s.dropEmpty(key, c)
		return nil
	}
	s.arrivals++
	t := &waiter{s.arrivals, make(chan struct{})}
	c.waiting = append(c.waiting, t)
	s.waiting++
	s.grant()
	return t
}

// dequeue removes a request from the queue, and returns false if it already has a slot.
func (s *slots) dequeue(key string, t *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(key)
	i := slices.Index(c.waiting, t)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		s.waiting--
	}
	s.dropEmpty(key, c)
	return i >= 0
}

// release frees a slot.
func (s *slots) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(key)
	s.used--
	c.held--
	s.dropEmpty(key, c)
	s.grant()
}

// grant gives the free slots to waiting requests. The caller holds the lock.
func (s *slots) grant() {
	for s.used < s.max {
		var next *clientSlots
		for _, c := range s.clients {
			if len(c.waiting) == 0 || c.held == s.maxPerClient {
				continue
			}
			if next == nil || c.held < next.held || c.held == next.held && c.waiting[0].arrival < next.waiting[0].arrival {
				next = c
			}
		}
		if next == nil {
			return
		}
		close(next.waiting[0].granted)
		next.waiting = next.waiting[1:]
		next.held++
		s.used++
		s.waiting--
	}
}

func (s *slots) client(key string) *clientSlots {
	c := s.clients[key]
	if c == nil {
		c = &clientSlots{}
		s.clients[key] = c
	}
	return c
}

// dropEmpty drops a client that neither holds a slot nor waits.
func (s *slots) dropEmpty(key string, c *clientSlots) {
	if c.held == 0 && len(c.waiting) == 0 {
		delete(s.clients, key)
	}
}

// A turn is the upload slot that the response with a CAR or a target holds for turnSize bytes.
type turn struct {
	slots *slots
	key   string // of the client
	held  bool
	sent  int // bytes
}

func (t *turn) begin(ctx context.Context) error { return t.wait(ctx, t.slots.wait) }

// next lets other requests have the slot, and waits for the next turn, longer than a request that
// had none yet.
func (t *turn) next(ctx context.Context) error {
	t.end()
	return t.wait(ctx, turnWaits*t.slots.wait)
}

func (t *turn) wait(ctx context.Context, wait time.Duration) error {
	err := t.slots.acquireWithin(ctx, t.key, wait)
	t.held, t.sent = err == nil, 0
	return err
}

func (t *turn) end() {
	if t.held {
		t.held = false
		t.slots.release(t.key)
	}
}
