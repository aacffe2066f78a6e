package gateway

import (
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	verifiedFor = 30 * time.Minute // until a leaf in a file is checked again
	maxVerified = 1 << 15          // leaves that are remembered: 2 GiB of leaves, in 9 MB of memory
	maxNodes    = 32               // inner nodes that are kept, of 0.1 MB each
)

// A filePosition is where a block stands in a file.
type filePosition struct {
	cid    cid.Cid
	offset int64
}

// A cache spares a handler work that it did before.
type cache struct {
	verified *lru.Cache[filePosition, time.Time] // when the bytes of a leaf in a file matched its CID
	nodes    *lru.Cache[cid.Cid, cas.Node]
}

// newCache does not use the package expirable of golang-lru: each of its caches has a goroutine
// that never ends.
func newCache() *cache {
	verified, _ := lru.New[filePosition, time.Time](maxVerified) // an error only for a size below 1
	nodes, _ := lru.New[cid.Cid, cas.Node](maxNodes)
	return &cache{verified, nodes}
}

// isVerified reports whether a leaf in a file was checked less than verifiedFor ago.
func (c *cache) isVerified(p filePosition) bool {
	at, ok := c.verified.Get(p)
	return ok && time.Since(at) < verifiedFor
}
