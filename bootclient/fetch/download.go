package fetch

import (
	"fmt"
	"iter"
	"sort"
	"sync/atomic"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// A download is one artifact of the release: its leaves in file order, and the state of
// each. Its bitfields belong to the goroutine of the queue.
type download struct {
	manifest.Artifact
	index  int // in the queue
	target Target
	leaves []cas.Leaf
	copies map[int][]position // further positions of a leaf, by its index here

	missing bitfield // not written yet
	waiting bitfield // missing and not requested
	left    int      // how many are missing

	bytesLeft atomic.Int64  // bytes missing
	prefix    atomic.Int64  // length of the contiguous prefix, in bytes
	moved     chan struct{} // receives when the prefix grows
	reorder   reorderBuffer
}

// A position is a leaf of a download.
type position struct {
	download *download
	leaf     int
}

func (at position) info() cas.Leaf { return at.download.leaves[at.leaf] }

// waiting yields the missing leaves that are not requested.
func waiting(downloads []*download) iter.Seq[position] {
	return func(yield func(position) bool) {
		for _, dl := range downloads {
			for i := dl.waiting.next(0); i >= 0; i = dl.waiting.next(i + 1) {
				if !yield(position{dl, i}) {
					return
				}
			}
		}
	}
}

// linkDownloads prepares the bitfields of all downloads. A leaf that occurs more than once is
// requested at its first position only, and written to all.
func linkDownloads(downloads []*download) error {
	first := map[cas.Leaf]position{} // by CID and size
	for _, dl := range downloads {
		n := len(dl.leaves)
		dl.missing, dl.waiting = fullBitfield(n), fullBitfield(n)
		dl.left, dl.copies, dl.moved = n, map[int][]position{}, make(chan struct{}, 1)
		dl.reorder.leaves = map[int]gateway.RunLeaf{}
		dl.bytesLeft.Store(dl.Length)
		for i, l := range dl.leaves {
			k := cas.Leaf{CID: l.CID, Size: l.Size}
			if at, ok := first[k]; ok {
				at.download.copies[at.leaf] = append(at.download.copies[at.leaf], position{dl, i})
				dl.waiting.remove(i)
				continue
			}
			first[k] = position{dl, i}
		}
		if len(first) > maxLeaves {
			return fmt.Errorf("more than %d blocks: %w", maxLeaves, cas.ErrCorrupt)
		}
		dl.advance()
	}
	return nil
}

// write writes a verified leaf at all its positions.
func (dl *download) write(i int, data []byte) error {
	l := dl.leaves[i]
	if int64(len(data)) != l.Size {
		return fmt.Errorf("block %s: got %d bytes, the artifact says %d: %w; sign the release again", l.CID, len(data), l.Size, cas.ErrCorrupt)
	}
	for _, at := range dl.positions(i) {
		if _, err := at.download.target.WriteAt(data, at.info().Offset); err != nil {
			return fmt.Errorf("writing: %w", file.FullDisk(err))
		}
	}
	return nil
}

// positions returns all positions of a leaf.
func (dl *download) positions(i int) []position { return append([]position{{dl, i}}, dl.copies[i]...) }

// complete marks a leaf as written at all its positions, and returns the bytes of those.
func (dl *download) complete(i int) (n int64) {
	for _, at := range dl.positions(i) {
		in, leaf := at.download, at.info()
		in.missing.remove(at.leaf)
		in.waiting.remove(at.leaf)
		in.left--
		in.bytesLeft.Add(-leaf.Size)
		if leaf.Offset == in.prefix.Load() {
			in.advance()
		}
		n += leaf.Size
	}
	return n
}

// advance extends the contiguous prefix to the first missing leaf.
func (dl *download) advance() {
	end := dl.Length
	if i := dl.missing.next(dl.leafAt(dl.prefix.Load())); i >= 0 {
		end = dl.leaves[i].Offset
	}
	dl.prefix.Store(end)
	select {
	case dl.moved <- struct{}{}:
	default:
	}
}

// leafAt returns the index of the leaf that begins at an offset.
func (dl *download) leafAt(offset int64) int {
	return sort.Search(len(dl.leaves), func(i int) bool { return dl.leaves[i].Offset >= offset })
}

// nodeBytes estimates the bytes of the inner nodes of the artifact.
func (dl *download) nodeBytes() int64 {
	const link = 50 // bytes of one link with its size
	n := int64(len(dl.leaves)) * link
	if len(dl.leaves) > cas.MaxLinks {
		n = cas.MaxLinks*link + n/cas.MaxLinks
	}
	return n
}
