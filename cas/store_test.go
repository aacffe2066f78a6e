package cas_test

import (
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestMemoryKeepsTheStoresPromises(t *testing.T) {
	castest.Run(t, func(*testing.T) cas.Store { return cas.NewMemory() })
}

func TestPacksKeepTheStoresPromises(t *testing.T) {
	for name, opts := range map[string]cas.PackOptions{
		"one pack":        {},
		"a pack a block":  {MaxPack: 1},
		"packs of 64 KiB": {MaxPack: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			castest.Run(t, func(t *testing.T) cas.Store {
				p, err := cas.OpenPacks(t.TempDir(), opts)
				if err != nil {
					t.Fatal(err)
				}
				return p
			})
		})
	}
}

func TestSourcesKeepTheirPromises(t *testing.T) {
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
	packs := cas.MergeAfter(cas.PackOptions{MaxPack: 100_000}, 2)
	for name, open := range map[string]func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source{
		"memory": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			m := cas.NewMemory()
			fill(t, m, blocks)
			return m
		},
		"the writer of packs": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			w := open(t, t.TempDir(), packs)
			fill(t, w, blocks)
			return w
		},
		"a reader of packs": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			dir := t.TempDir()
			w := open(t, dir, packs)
			r := open(t, dir, cas.PackOptions{ReadOnly: true})
			fill(t, w, blocks)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) { castest.RunSource(t, open) })
	}
}
