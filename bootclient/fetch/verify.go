package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"sync"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// A reorderBuffer keeps verified leaves until the hash of their artifact reaches them. Leaves for
// which it has no room are read back from the target.
type reorderBuffer struct {
	mu     sync.Mutex
	next   int // next leaf to hash
	leaves map[int]gateway.RunLeaf
}

// put keeps a leaf, unless it was hashed already.
func (b *reorderBuffer) put(i int, data gateway.RunLeaf) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, twice := b.leaves[i]; !twice && i >= b.next && data.Retain() {
		b.leaves[i] = data
	}
}

// take returns the leaf to hash next, if it is in the buffer.
func (b *reorderBuffer) take(i int) (gateway.RunLeaf, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = i + 1
	data, ok := b.leaves[i]
	delete(b.leaves, i)
	return data, ok
}

// drop releases all leaves.
func (b *reorderBuffer) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = math.MaxInt
	for _, data := range b.leaves {
		data.Release()
	}
	clear(b.leaves)
}

// hash compares the sha256 of the target with the signed one. It hashes the contiguous prefix
// while leaves still arrive. The length is right already: the leaves cover the signed length,
// and each was written.
func (dl *download) hash(ctx context.Context) error {
	defer dl.reorder.drop()
	h := sha256.New()
	var room []byte
	for i, l := range dl.leaves {
		for dl.prefix.Load() < l.Offset+l.Size {
			select {
			case <-dl.moved:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if held, ok := dl.reorder.take(i); ok {
			h.Write(held.Data)
			held.Release()
			continue
		}
		if int64(len(room)) < l.Size {
			room = make([]byte, l.Size)
		}
		if n, err := dl.target.ReadAt(room[:l.Size], l.Offset); int64(n) < l.Size {
			return fmt.Errorf("%s: reading back: got %d of %d bytes: %w", dl.Role, n, l.Size, err)
		}
		h.Write(room[:l.Size])
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != dl.SHA256 {
		return fmt.Errorf("%s: %d bytes with sha256 %s, signed is %s: %w", dl.Role, dl.Length, got, dl.SHA256, cas.ErrCorrupt)
	}
	return nil
}
