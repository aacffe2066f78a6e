package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	slotWait  = time.Second      // that a request may wait for an upload slot
	slotStall = 10 * time.Second // for an asker that holds a slot to take 64 KiB
	slotQueue = 8                // requests that may wait, for each slot
	slotTurn  = 4 << 20          // bytes of a CAR, after which its slot goes to who waits
	turnWaits = 4                // times slotWait that a CAR may wait for its next turn
	bulkFrom  = 16 << 10         // bytes: a raw block below this waits for nobody
)

// errBusy says that every upload slot is taken and stayed so.
var errBusy = errors.New("busy: all upload slots are taken")

// slots are the block and CAR responses that may be under way at a time. When all are
// taken a request waits a second at most. A slot that comes free goes to the client that
// holds the fewest, among those to the one that waits longest; no client holds more than
// half of them, so that there is always one for another.
type slots struct {
	max, each int
	wait      time.Duration

	mu      sync.Mutex
	used    int
	waiting int
	clients map[string]*client
	order   int64 // of arrival
}

type client struct {
	held    int
	waiting []*ticket // first come first
}

// A ticket is a request that waits.
type ticket struct {
	order   int64
	granted chan struct{}
}

// newSlots returns n slots, nil (no limit) when n is not positive.
func newSlots(n int, wait time.Duration) *slots {
	if n <= 0 {
		return nil
	}
	return &slots{max: n, each: (n + 1) / 2, wait: wait, clients: map[string]*client{}}
}

// try takes a slot for a client if there is one now.
func (s *slots) try(who string) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(who)
	if s.used == s.max || c.held == s.each || len(c.waiting) > 0 {
		s.forget(who, c)
		return false
	}
	s.used++
	c.held++
	return true
}

// take waits for a slot. The error is errBusy, or that of ctx.
func (s *slots) take(ctx context.Context, who string) error {
	if s == nil {
		return nil
	}
	return s.within(ctx, who, s.wait)
}

// again gives a slot back and waits for the next, longer than who has got nothing yet. On
// an error there is no slot to give back.
func (s *slots) again(ctx context.Context, who string) error {
	if s == nil {
		return nil
	}
	s.give(who)
	return s.within(ctx, who, turnWaits*s.wait)
}

func (s *slots) within(ctx context.Context, who string, wait time.Duration) error {
	if s.try(who) {
		return nil
	}
	t := s.line(who)
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
	if !s.leave(who, t) { // it was granted just now
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errBusy
}

// line puts a request in line, nil when the line is full. The first of a client is always
// let in: others that fill the line do not keep it out.
func (s *slots) line(who string) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(who)
	if len(c.waiting) > 0 && s.waiting >= slotQueue*s.max || len(c.waiting) >= slotQueue*s.each {
		s.forget(who, c)
		return nil
	}
	s.order++
	t := &ticket{s.order, make(chan struct{})}
	c.waiting = append(c.waiting, t)
	s.waiting++
	s.grant()
	return t
}

// leave takes a request out of the line; false when it has a slot already.
func (s *slots) leave(who string, t *ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(who)
	i := slices.Index(c.waiting, t)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		s.waiting--
	}
	s.forget(who, c)
	return i >= 0
}

// give returns a slot.
func (s *slots) give(who string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(who)
	s.used--
	c.held--
	s.forget(who, c)
	s.grant()
}

// grant hands free slots to those who wait.
func (s *slots) grant() {
	for s.used < s.max {
		var next *client
		for _, c := range s.clients {
			if len(c.waiting) == 0 || c.held == s.each {
				continue
			}
			if next == nil || c.held < next.held || c.held == next.held && c.waiting[0].order < next.waiting[0].order {
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

func (s *slots) client(who string) *client {
	c := s.clients[who]
	if c == nil {
		c = &client{}
		s.clients[who] = c
	}
	return c
}

// forget drops a client that neither holds a slot nor waits.
func (s *slots) forget(who string, c *client) {
	if c.held == 0 && len(c.waiting) == 0 {
		delete(s.clients, who)
	}
}

// A turn is the upload slot that a CAR has for a while.
type turn struct {
	slots *slots // nil: no limit
	who   string
	held  bool
	sent  int // bytes
}

func (t *turn) begin(ctx context.Context) error {
	err := t.slots.take(ctx, t.who)
	t.held = err == nil
	return err
}

// next lets others have the slot, and waits until it comes round.
func (t *turn) next(ctx context.Context) error {
	err := t.slots.again(ctx, t.who)
	t.held, t.sent = err == nil, 0
	return err
}

func (t *turn) end() {
	if t.held {
		t.slots.give(t.who)
	}
}
