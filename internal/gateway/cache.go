package gateway

import (
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
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
	verified *expirable.LRU[filePosition, struct{}] // leaves whose bytes in a file matched their CID
	nodes    *lru.Cache[cid.Cid, cas.Node]
}

func newCache() *cache {
	nodes, _ := lru.New[cid.Cid, cas.Node](maxNodes) // an error only for a size below 1
	return &cache{expirable.NewLRU[filePosition, struct{}](maxVerified, nil, verifiedFor), nodes}
}
