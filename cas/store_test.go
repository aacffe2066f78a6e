package cas_test

import (
	"testing"

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
