package gateway

import (
	"sync"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	maxChecked = 1 << 15          // blocks of a generation: 2 GiB of leaves, in 3 MB of memory
	goodFor    = 30 * time.Minute // of a generation
)

// A place is where a block stands in a file.
type place struct {
	cid    cid.Cid
	offset int64
}

// checked remembers blocks of files that hashed to their names when they were read. It
// forgets one after half an hour at the earliest, an hour at the latest, or sooner when
// there are many.
type checked struct {
	mu         sync.Mutex
	young, old map[place]bool
	turned     time.Time
}

func (c *checked) has(id cid.Cid, offset int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(time.Now())
	at := place{id, offset}
	return c.young[at] || c.old[at]
}

func (c *checked) add(id cid.Cid, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(time.Now())
	c.young[place{id, offset}] = true
}

// turn begins a new generation when it is time.
func (c *checked) turn(now time.Time) {
	age := now.Sub(c.turned)
	if c.young != nil && age < goodFor && len(c.young) < maxChecked {
		return
	}
	c.old, c.young, c.turned = c.young, map[place]bool{}, now
	if age >= 2*goodFor {
		c.old = nil
	}
}
