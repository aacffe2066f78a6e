package bootclient

import (
	"fmt"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// A download is one artifact of the release: its leaves in file order, and the state of
// each. Its bitfields belong to the goroutine of the queue.
type download struct {
	manifest.Artifact
	target Target
	leaves []cas.Leaf
	copies map[int][]position // further positions of a leaf, by its index here

	missing bitfield // not written yet
	waiting bitfield // missing and not requested
	left    int      // how many are missing

	toCome atomic.Int64  // bytes missing
	prefix atomic.Int64  // length of the contiguous prefix, in bytes
	moved  chan struct{} // receives when the prefix grows
	hand   hand
}

// A position is a leaf of a download.
type position struct {
	download *download
	leaf     int
}

// link prepares the bitfields of all downloads. A leaf that occurs more than once is
// requested at its first position only, and written to all.
func link(parts []*download) error {
	type key struct {
		name cid.Cid
		size int64
	}
	first := map[key]position{}
	for _, p := range parts {
		n := len(p.leaves)
		p.missing, p.waiting = fullBitfield(n), fullBitfield(n)
		p.left, p.copies, p.moved = n, map[int][]position{}, make(chan struct{}, 1)
		p.hand.leaves = map[int]gateway.Loan{}
		p.toCome.Store(p.Length)
		for i, l := range p.leaves {
			k := key{l.CID, l.Size}
			if at, ok := first[k]; ok {
				at.download.copies[at.leaf] = append(at.download.copies[at.leaf], position{p, i})
				p.waiting.remove(i)
				continue
			}
			first[k] = position{p, i}
		}
		if len(first) > maxLeaves {
			return fmt.Errorf("more than %d blocks: %w", maxLeaves, cas.ErrCorrupt)
		}
		p.advance()
	}
	return nil
}

// write writes a verified leaf to all its positions.
func (p *download) write(i int, data []byte) error {
	l := p.leaves[i]
	if int64(len(data)) != l.Size {
		return fmt.Errorf("block %s: %d bytes, its file says %d: %w; the signer has to release again", l.CID, len(data), l.Size, cas.ErrCorrupt)
	}
	for _, at := range append([]position{{p, i}}, p.copies[i]...) {
		if _, err := at.download.target.WriteAt(data, at.download.leaves[at.leaf].Offset); err != nil {
			return fmt.Errorf("writing: %w", roomFor(err))
		}
	}
	return nil
}

// landed marks a leaf as written at all its positions, and returns the bytes of those.
func (p *download) landed(i int) int64 {
	n := p.settle(i)
	for _, at := range p.copies[i] {
		n += at.download.settle(at.leaf)
	}
	return n
}

func (p *download) settle(i int) int64 {
	p.missing.remove(i)
	p.waiting.remove(i)
	p.left--
	p.toCome.Add(-p.leaves[i].Size)
	if p.leaves[i].Offset == p.prefix.Load() {
		p.advance()
	}
	return p.leaves[i].Size
}

// advance extends the contiguous prefix to the first missing leaf.
func (p *download) advance() {
	front := p.Length
	if i := p.missing.next(p.leafAt(p.prefix.Load())); i >= 0 {
		front = p.leaves[i].Offset
	}
	p.prefix.Store(front)
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// leafAt returns the index of the leaf that begins at an offset.
func (p *download) leafAt(offset int64) int {
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

// nodes estimates the bytes of the inner nodes of the artifact.
func (p *download) nodes() int64 {
	const link = 50 // bytes of one link with its size
	n := int64(len(p.leaves)) * link
	if len(p.leaves) > cas.MaxLinks {
		n = cas.MaxLinks*link + n/cas.MaxLinks
	}
	return n
}
