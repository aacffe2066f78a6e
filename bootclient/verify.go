package bootclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/cas"
)

// hash compares the sha256 of what stands in the target with the signed one. It reads
// behind the front while leaves still arrive. The length is exact already: the leaves
// cover the signed length, and each is in place.
func (p *part) hash(ctx context.Context) error {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for at := int64(0); at < p.Length; {
		front := p.front.Load()
		if at == front {
			select {
			case <-p.moved:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		n, err := p.target.ReadAt(buf[:min(int64(len(buf)), front-at)], at)
		if n == 0 && err != nil {
			return fmt.Errorf("%s: reading back: %w", p.Role, cutShort(err))
		}
		h.Write(buf[:n])
		at += int64(n)
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
