package pack_test

import (
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

func TestStoreKeepsThePromisesOfAStore(t *testing.T) {
	for name, opts := range map[string]pack.Options{
		"one pack":        {},
		"a pack a block":  {MaxPack: 1},
		"packs of 64 KiB": {MaxPack: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			castest.Run(t, func(t *testing.T) cas.Store {
				p, err := pack.Open(t.TempDir(), opts)
				if err != nil {
					t.Fatal(err)
				}
				return p
			})
		})
	}
}

func TestStoreKeepsThePromisesOfASource(t *testing.T) {
	fill := func(t *testing.T, s cas.Store, blocks map[cid.Cid][]byte) {
		for c, data := range blocks {
			if err := s.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	opts := pack.MergeAfter(pack.Options{MaxPack: 100_000}, 2)
	for name, open := range map[string]func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source{
		"a writer": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			w := open(t, t.TempDir(), opts)
			fill(t, w, blocks)
			return w
		},
		"a reader": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			dir := t.TempDir()
			w := open(t, dir, opts)
			r := open(t, dir, pack.Options{ReadOnly: true})
			fill(t, w, blocks)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) { castest.RunSource(t, open) })
	}
}
