package cas_test

import (
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestMemoryKeepsThePromisesOfAStore(t *testing.T) {
	castest.Run(t, func(*testing.T) cas.Store { return cas.NewMemory() })
}

func TestMemoryKeepsThePromisesOfASource(t *testing.T) {
	castest.RunSource(t, func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
		m := cas.NewMemory()
		for c, data := range blocks {
			if err := m.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
		}
		return m
	})
}
