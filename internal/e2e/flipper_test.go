package e2e

import (
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// flip serves the release from the host as an honest publisher would, but for one byte in
// each of the named blocks. It returns its peer ID.
func (h host) flip(cids ...string) string {
	h.t.Helper()
	honest := h.publish("--mdns=false", "--dht", "off", "--http", "127.0.0.1:8080", "--listen", "/ip4/127.0.0.1/tcp/4001")
	args := append([]string{"/ip4/" + h.addr + "/tcp/4001", honest.HTTP[0]}, cids...)
	return h.serve(fx.bin("flipper"), args...).Peer
}

// leaves names the blocks of an artifact of the fixtures' release, in file order.
func leaves(t *testing.T, role string) []string {
	t.Helper()
	var r struct {
		Artifacts []manifest.Artifact `json:"artifacts"`
	}
	decode(t, must(t, fx.bin("phase-sign"), "show", "--json", fx.path("release.json")), &r)
	store, err := cas.OpenPacks(fx.path("store"), cas.PackOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var names []string
	for _, a := range r.Artifacts {
		if a.Role != role {
			continue
		}
		list, err := cas.Leaves(t.Context(), store, a.CID, a.Length)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			names = append(names, l.CID.String())
		}
	}
	if len(names) == 0 {
		t.Fatalf("no artifact %q in the release", role)
	}
	return names
}
