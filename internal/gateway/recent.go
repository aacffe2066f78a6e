package gateway

import (
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	goodFor    = 30 * time.Minute // of a generation
	maxChecked = 1 << 15          // blocks of a generation: 2 GiB of leaves, in 3 MB of memory
	maxNodes   = 16               // inner nodes of a generation, of 0.1 MB each
)

// A place is where a block stands in a file.
type place struct {
	cid    cid.Cid
	offset int64
}

// recent remembers what was lately added to it, two generations of max each. It forgets an
// entry after half an hour at the earliest, an hour at the latest, or sooner when there are
// many.
type recent[K comparable, V any] struct {
	max int

	mu         sync.Mutex
	young, old map[K]V
	turned     time.Time
}

func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(time.Now())
	v, ok := r.young[key]
	if !ok {
		v, ok = r.old[key]
	}
	return v, ok
}

func (r *recent[K, V]) add(key K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(time.Now())
	r.young[key] = v
}

// turn begins a new generation when it is time.
func (r *recent[K, V]) turn(now time.Time) {
	age := now.Sub(r.turned)
	if r.young != nil && age < goodFor && len(r.young) < r.max {
		return
	}
	r.old, r.young = r.young, map[K]V{}
	switch {
	case age < goodFor: // there are many
		r.turned = now
	case age < 2*goodFor:
		r.turned = r.turned.Add(goodFor)
	default:
		r.old, r.turned = nil, now
	}
}

// A memory spares a handler work that it did a moment ago.
type memory struct {
	checked recent[place, struct{}] // blocks of files that hashed to their names
	nodes   recent[cid.Cid, cas.Node]
}

func newMemory() *memory {
	m := &memory{}
	m.checked.max, m.nodes.max = maxChecked, maxNodes
	return m
}
