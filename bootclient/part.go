package bootclient

import (
	"fmt"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// A part is one artifact of the release on its way: its leaves in file order, and what
// has become of each. Its sets belong to the goroutine that schedules.
type part struct {
	manifest.Artifact
	target Target
	leaves []cas.Leaf
	copies map[int][]place // where else a leaf belongs, by its index here

	missing set // not in place yet
	waiting set // missing, and nobody is asked for them
	left    int // how many are missing

	toCome atomic.Int64  // bytes of the missing ones
	front  atomic.Int64  // everything before this offset is in place
	moved  chan struct{} // told when front moves
	hand   hand
}

// A place is a leaf of a part.
type place struct {
	part *part
	leaf int
}

// link prepares the sets of all parts. A leaf that occurs more than once is asked for
// at its first place only, and written to all.
func link(parts []*part) error {
	type key struct {
		name cid.Cid
		size int64
	}
	first := map[key]place{}
	for _, p := range parts {
		n := len(p.leaves)
		p.missing, p.waiting = fullSet(n), fullSet(n)
		p.left, p.copies, p.moved = n, map[int][]place{}, make(chan struct{}, 1)
		p.hand.leaves = map[int]gateway.Loan{}
		p.toCome.Store(p.Length)
		for i, l := range p.leaves {
			k := key{l.CID, l.Size}
			if at, ok := first[k]; ok {
				at.part.copies[at.leaf] = append(at.part.copies[at.leaf], place{p, i})
				p.waiting.remove(i)
				continue
			}
			first[k] = place{p, i}
		}
		if len(first) > maxLeaves {
			return fmt.Errorf("more than %d blocks: %w", maxLeaves, cas.ErrCorrupt)
		}
		p.advance()
	}
	return nil
}

// write puts a verified leaf into all its places.
func (p *part) write(i int, data []byte) error {
	l := p.leaves[i]
	if int64(len(data)) != l.Size {
		return fmt.Errorf("block %s: %d bytes, its file says %d: %w; the signer has to release again", l.CID, len(data), l.Size, cas.ErrCorrupt)
	}
	for _, at := range append([]place{{p, i}}, p.copies[i]...) {
		if _, err := at.part.target.WriteAt(data, at.part.leaves[at.leaf].Offset); err != nil {
			return fmt.Errorf("writing: %w", roomFor(err))
		}
	}
	return nil
}

// landed counts a leaf that is in all its places, and returns the bytes of those.
func (p *part) landed(i int) int64 {
	n := p.settle(i)
	for _, at := range p.copies[i] {
		n += at.part.settle(at.leaf)
	}
	return n
}

func (p *part) settle(i int) int64 {
	p.missing.remove(i)
	p.waiting.remove(i)
	p.left--
	p.toCome.Add(-p.leaves[i].Size)
	if p.leaves[i].Offset == p.front.Load() {
		p.advance()
	}
	return p.leaves[i].Size
}

// advance moves the front to the first leaf that is missing.
func (p *part) advance() {
	front := p.Length
	if i := p.missing.next(p.leafAt(p.front.Load())); i >= 0 {
		front = p.leaves[i].Offset
	}
	p.front.Store(front)
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// leafAt finds the leaf that begins at an offset.
func (p *part) leafAt(offset int64) int {
	lo, hi := 0, len(p.leaves)
	for lo < hi {
		if mid := (lo + hi) / 2; p.leaves[mid].Offset < offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// nodes estimates the bytes of the inner nodes above a run.
func (p *part) nodes() int64 {
	const link = 50 // bytes of one link with its size
	n := int64(len(p.leaves)) * link
	if len(p.leaves) > cas.MaxLinks {
		n = cas.MaxLinks*link + n/cas.MaxLinks
	}
	return n
}
