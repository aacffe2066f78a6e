package p2p

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/ipfs/go-cid"
)

const (
	fewProviders = 16 // others that are always joined
	halvingEvery = 8  // more of them, half as likely
)

// Offer tells the DHT that this Node has c, as Provide does, unless enough others have said
// so: with fewer than 16 it always does, and each 8 more halve the chance. So a million
// machines leave some 150 entries. It reports whether it told; keeping silent costs less
// than a search, which ends with the first answer that names enough.
func (n *Node) Offer(ctx context.Context, c cid.Cid) (told bool, err error) {
	if n.dht == nil {
		return false, ErrNoDHT
	}
	looking, done := context.WithCancel(ctx)
	defer done()
	enough, others := enoughProviders(rand.Float64()), 0
	for range n.providers(looking, c, enough+1) { // we may be among them, and are not delivered
		if others++; others == enough {
			return false, nil
		}
	}
	return true, n.Provide(ctx, c)
}

// enoughProviders turns a number from [0, 1) into how many others silence a Node.
func enoughProviders(luck float64) int {
	return fewProviders + int(-halvingEvery*math.Log2(1-luck))
}
