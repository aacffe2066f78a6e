package reports

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxAddresses is how many addresses are remembered. One that was forgotten has its whole burst again.
const maxAddresses = 16 << 10

// rates bound how many documents are received: of each address and of all unverified keys a second, and bodies at once.
type rates struct {
	limits     Limits
	unverified *rate.Limiter

	mu        sync.Mutex
	addresses *lru.Cache[string, *rate.Limiter]
	bodies    map[string][]*body // being received, by address, the oldest first
	open      int
}

// A body is that of a request that is being received.
type body struct {
	address string
	begun   time.Time
	abort   func() // ends the reading of it
	whole   bool   // received; it is being kept
}

func newRates(l Limits) *rates {
	addresses, _ := lru.New[string, *rate.Limiter](maxAddresses) // an error only for a size below 1
	return &rates{limits: l, unverified: rate.NewLimiter(rate.Limit(l.All), l.AllBurst), addresses: addresses, bodies: map[string][]*body{}}
}

// allowUnverified reports whether one more document of an unverified key may be kept now.
func (r *rates) allowUnverified() bool { return r.unverified.Allow() }

// slowBody is how long a body may take while others wait for its place. A document of the greatest size has that time
// over a line of 1 Mbit/s.
const slowBody = 2 * time.Second

// begin gives a place to a body from an address; end must be called after it. If all places are taken, the address with
// most bodies that are being received loses its oldest one: always if it has at least two more than this address, and
// otherwise if that one is slow. abort ends the reading of the body of this call. It reports false if there is no place.
func (r *rates) begin(address string, abort func()) (*body, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter, known := r.addresses.Get(address)
	if !known {
		limiter = rate.NewLimiter(rate.Limit(r.limits.PerAddress), r.limits.Burst)
		r.addresses.Add(address, limiter)
	}
	if len(r.bodies[address]) >= r.limits.BodiesPerAddress || !limiter.Allow() {
		return nil, false
	}
	if r.open >= r.limits.Bodies && !r.displaceFor(address) {
		return nil, false
	}
	b := &body{address: address, begun: time.Now(), abort: abort}
	r.open++
	r.bodies[address] = append(r.bodies[address], b)
	return b, true
}

// received says that a body keeps its place until end.
func (r *rates) received(b *body) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.whole = true
}

func (r *rates) end(b *body) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(b)
}

// displaceFor ends the reading of a body to make room for one of an address. It reports false if none may be ended.
func (r *rates) displaceFor(address string) bool {
	var oldest *body // of an address with most bodies
	most := 0
	for _, list := range r.bodies {
		first, n := receiving(list)
		if n > most || n > 0 && n == most && first.begun.Before(oldest.begun) {
			oldest, most = first, n
		}
	}
	_, own := receiving(r.bodies[address])
	if oldest == nil || most < own+2 && time.Since(oldest.begun) < slowBody {
		return false
	}
	r.remove(oldest)
	oldest.abort()
	return true
}

// receiving returns the oldest of the bodies that are being received, and how many there are.
func receiving(list []*body) (oldest *body, n int) {
	for _, b := range list {
		if b.whole {
			continue
		}
		if n++; n == 1 {
			oldest = b
		}
	}
	return oldest, n
}

// remove does nothing for a body that was removed.
func (r *rates) remove(b *body) {
	list := r.bodies[b.address]
	i := slices.Index(list, b)
	if i < 0 {
		return
	}
	r.open--
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(r.bodies, b.address)
		return
	}
	r.bodies[b.address] = list
}
