package reports

import (
	"sync"

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
	bodies    map[string]int // being received, by address
	open      int
}

func newRates(l Limits) *rates {
	addresses, _ := lru.New[string, *rate.Limiter](maxAddresses) // an error only for a size below 1
	return &rates{limits: l, unverified: rate.NewLimiter(rate.Limit(l.All), l.AllBurst), addresses: addresses, bodies: map[string]int{}}
}

// allowUnverified reports whether one more document of an unverified key may be kept now.
func (r *rates) allowUnverified() bool { return r.unverified.Allow() }

// begin reports whether an address may send a document now. If so, end must be called after it.
func (r *rates) begin(address string) (end func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter, known := r.addresses.Get(address)
	if !known {
		limiter = rate.NewLimiter(rate.Limit(r.limits.PerAddress), r.limits.Burst)
		r.addresses.Add(address, limiter)
	}
	if r.open >= r.limits.Bodies || r.bodies[address] >= r.limits.BodiesPerAddress || !limiter.Allow() {
		return nil, false
	}
	r.open++
	r.bodies[address]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open--
		if r.bodies[address]--; r.bodies[address] == 0 {
			delete(r.bodies, address)
		}
	}, true
}
