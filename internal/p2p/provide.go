package p2p

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/ipfs/go-cid"
)

const (
	fewProviders = 16 // providers below which a Node always provides
	halvingEvery = 8  // further providers that halve the chance
)

// ProvideIfFew provides c as Provide does, unless the DHT has enough providers: with fewer than 16
// it always provides, and each 8 more halve the chance. So a million machines leave some 150
// records. It returns whether it provided. Not providing costs less than a search, as the search
// ends with the first answer that names enough providers.
func (n *Node) ProvideIfFew(ctx context.Context, c cid.Cid) (provided bool, err error) {
	if n.dht == nil {
		return false, ErrNoDHT
	}
	search, done := context.WithCancel(ctx)
	defer done()
	enough, others := enoughProviders(rand.Float64()), 0
	for range n.providers(search, c, enough+1) { // one more, as this Node may be among them and is not delivered
		if others++; others == enough {
			return false, nil
		}
	}
	return true, n.Provide(ctx, c)
}

// enoughProviders converts a random number of [0, 1) into the number of providers at which a Node
// does not provide.
func enoughProviders(random float64) int {
	return fewProviders + int(-halvingEvery*math.Log2(1-random))
}
