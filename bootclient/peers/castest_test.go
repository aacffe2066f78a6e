package peers

import (
	"net/http/httptest"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

func TestAMirrorKeepsTheContractOfASource(t *testing.T) {
	castest.RunSource(t, func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
		store := cas.NewMemory()
		for c, data := range blocks {
			if err := store.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
		}
		server := httptest.NewServer(gateway.Handler(gateway.Options{Source: store}))
		t.Cleanup(server.Close)
		set := newSet(nil, nil, &timing.Usual)
		set.addMirror(server.URL, true)
		return set.sources[0]
	})
}
