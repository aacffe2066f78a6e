package pack

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// Readers work while a pack is sealed and its file joins the pool.
func TestReadersWorkWhileAPackIsSealed(t *testing.T) {
	ctx := context.Background()
	p, err := Open(t.TempDir(), Options{MaxPack: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	block := func(i int) (cid.Cid, []byte) {
		data := fmt.Appendf(nil, "block %d %01000d", i, i)
		return cas.Sum(cid.Raw, data), data
	}
	const blocks = 64
	put := make(chan cid.Cid, blocks)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for c := range put {
				for range 20 {
					if _, err := cas.Get(ctx, p, c); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range blocks {
		c, data := block(i)
		if err := p.Put(ctx, c, data); err != nil {
			t.Fatal(err)
		}
		put <- c
	}
	close(put)
	readers.Wait()
}
