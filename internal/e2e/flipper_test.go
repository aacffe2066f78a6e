package e2e

import (
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// flip serves the release from the host with one wrong byte in each of the named blocks. It
// returns the peer ID.
func (h host) flip(cids ...string) string {
	h.t.Helper()
	original := h.publish("--mdns=false", "--dht", "off") // reachable only through flipper
	args := append([]string{"/ip4/" + h.addr + "/tcp/4002", original.HTTP[0]}, cids...)
	return h.serve(fx.bin("flipper"), args...).Peer
}

// leaves returns the CIDs of the leaves of an artifact of the fixtures' release, in file order.
func leaves(t *testing.T, role string) []string {
	t.Helper()
	signed := signedRelease(t)
	store, err := pack.Open(fx.path("store"), pack.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var names []string
	a, ok := signed.Artifact(role)
	if !ok {
		t.Fatalf("no artifact %q in the release", role)
	}
	list, err := cas.Leaves(t.Context(), store, a.CID, a.Length)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		names = append(names, l.CID.String())
	}
	return names
}
