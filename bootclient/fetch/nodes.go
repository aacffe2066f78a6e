package fetch

import (
	"context"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	nodesAtOnce = 16  // requests for inner nodes of one artifact under way
	nodesAhead  = 256 // inner nodes of one artifact that are read ahead: those of 16 GiB
)

// listLeaves is cas.Leaves, but reads the inner nodes of one level at once, into the memory of src:
// one after another, each would cost a round trip. Errors of that do not matter, as cas.Leaves reads
// and judges every node.
func listLeaves(ctx context.Context, src cas.Source, root cid.Cid, size int64) ([]cas.Leaf, error) {
	left := nodesAhead
	for level := []cid.Cid{root}; left > 0; {
		level = nodesBelow(ctx, src, level[:min(len(level), left)])
		if left -= len(level); len(level) == 0 {
			break
		}
	}
	return cas.Leaves(ctx, src, root, size)
}

// nodesBelow reads nodes and lists the inner nodes below them.
func nodesBelow(ctx context.Context, src cas.Source, level []cid.Cid) (below []cid.Cid) {
	links := make([][]cas.Link, len(level))
	var g errgroup.Group
	g.SetLimit(nodesAtOnce)
	for i, c := range level {
		if c.Prefix().Codec == cid.DagProtobuf {
			g.Go(func() error {
				if block, err := cas.Get(ctx, src, c); err == nil {
					n, _ := cas.DecodeNode(c, block)
					links[i] = n.Links
				}
				return nil
			})
		}
	}
	g.Wait()
	seen := map[cid.Cid]bool{}
	for _, list := range links {
		for _, l := range list {
			if l.CID.Prefix().Codec == cid.DagProtobuf && !seen[l.CID] {
				seen[l.CID] = true
				below = append(below, l.CID)
			}
		}
	}
	return below
}
