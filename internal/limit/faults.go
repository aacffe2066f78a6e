package limit

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Faults bounds how many requests that are refused one client may send: PerSecond on average, after Burst at
// once. A client whose requests are in order is never limited.
type Faults struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	clients *lru.Cache[string, *rate.Limiter] // those with a fault lately
}

// NewFaults returns Faults that remembers the 4096 clients with the latest faults.
func NewFaults(perSecond float64, burst int) *Faults {
	clients, _ := lru.New[string, *rate.Limiter](maxIdle) // an error only for a size below 1
	return &Faults{perSecond: rate.Limit(perSecond), burst: burst, clients: clients}
}

// Allow reports whether a request of a client, as ClientKey names it, may be looked at.
func (f *Faults) Allow(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, known := f.clients.Get(key)
	return !known || l.Tokens() >= 1
}

// Add counts a request that was refused.
func (f *Faults) Add(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, known := f.clients.Get(key)
	if !known {
		l = rate.NewLimiter(f.perSecond, f.burst)
		f.clients.Add(key, l)
	}
	l.Allow()
}
