package bootclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
)

// verify reads every target back and compares its sha256 with the signed one. The
// length is exact already: the leaves cover the signed length, each is in place.
func (f *fetch) verify(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, w := range f.wanted {
		g.Go(func() error {
			h := sha256.New()
			buf := make([]byte, 256<<10)
			n, err := io.CopyBuffer(h, &untilDone{ctx, io.NewSectionReader(w.target, 0, w.Length)}, buf)
			if err != nil {
				return fmt.Errorf("%s: reading back: %w", w.Role, err)
			}
			if got := hex.EncodeToString(h.Sum(nil)); n != w.Length || got != w.SHA256 {
				return fmt.Errorf("%s: %d bytes with sha256 %s, signed are %d bytes with %s: %w", w.Role, n, got, w.Length, w.SHA256, cas.ErrCorrupt)
			}
			return nil
		})
	}
	return g.Wait()
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
