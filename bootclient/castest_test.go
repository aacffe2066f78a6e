package bootclient

import (
	"net/http/httptest"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

func TestAMirrorKeepsASourcesPromises(t *testing.T) {
	castest.RunSource(t, func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
		store := cas.NewMemory()
		for c, data := range blocks {
			if err := store.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
		}
		server := httptest.NewServer(gateway.Handler(gateway.Options{Source: store}))
		t.Cleanup(server.Close)
		h := newSourceSet(nil, &usual)
		h.mirror(server.URL)
		return h.sources[0]
	})
}
