package bootclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// A hand holds leaves that were verified and written, until their artifact's hash has come
// to them. Those that it cannot hold are read back.
type hand struct {
	mu     sync.Mutex
	next   int // leaf to hash
	leaves map[int]gateway.Loan
}

// put takes a leaf, unless it is too late.
func (h *hand) put(i int, data gateway.Loan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, twice := h.leaves[i]; !twice && i >= h.next && data.Keep() {
		h.leaves[i] = data
	}
}

// take gives back the leaf that is hashed next, if it is here.
func (h *hand) take(i int) (gateway.Loan, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = i + 1
	data, ok := h.leaves[i]
	delete(h.leaves, i)
	return data, ok
}

// drop gives back all that nobody takes any more.
func (h *hand) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = math.MaxInt
	for _, data := range h.leaves {
		data.Release()
	}
	clear(h.leaves)
}

// hash compares the sha256 of what was written to the target with the signed one, behind
// the front while leaves still arrive. The length is exact already: the leaves cover the
// signed length, and each is in place.
func (p *download) hash(ctx context.Context) error {
	defer p.hand.drop()
	h := sha256.New()
	var room []byte
	for i, l := range p.leaves {
		for p.prefix.Load() < l.Offset+l.Size {
			select {
			case <-p.moved:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if held, ok := p.hand.take(i); ok {
			h.Write(held.Data)
			held.Release()
			continue
		}
		if int64(len(room)) < l.Size {
			room = make([]byte, l.Size)
		}
		if n, err := p.target.ReadAt(room[:l.Size], l.Offset); int64(n) < l.Size {
			return fmt.Errorf("%s: reading back: %w", p.Role, cutShort(err))
		}
		h.Write(room[:l.Size])
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%s: %d bytes with sha256 %s, signed is %s: %w", p.Role, p.Length, got, p.SHA256, cas.ErrCorrupt)
	}
	return nil
}

func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
