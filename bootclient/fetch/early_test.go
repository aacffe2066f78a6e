package fetch

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// A publisher sends at most earlyBytes and one leaf early, of however many releases.
func TestEarlyBytesAreBounded(t *testing.T) {
	store := cas.NewMemory()
	var releases []manifest.Release
	for seed := range byte(3) {
		file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(seed, 8<<20)), cas.DefaultChunker)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, manifest.Release{Artifacts: []manifest.Artifact{{Role: manifest.RoleRootfs, Length: file.Size, CID: file.CID}}})
	}
	var sent, requests atomic.Int64
	good := gateway.Handler(gateway.Options{Source: store})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, err := cid.Decode(strings.TrimPrefix(r.URL.Path, "/ipfs/")); err == nil && id.Type() == cid.Raw {
			data, _ := store.Block(r.Context(), id)
			sent.Add(int64(len(data)))
			requests.Add(1)
		}
		good.ServeHTTP(w, r)
	}))
	defer s.Close()
	disc, err := peers.Discover(t.Context(), peers.Options{Mirrors: []string{s.URL}, Times: &timing.Usual, Interfaces: net.Interfaces, Log: slog.New(slog.DiscardHandler), Report: report.New(time.Now(), nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer disc.Close()
	early := NewEarly(disc, nil)
	src := peers.Pool{Memory: cas.NewMemory(), Cache: &cache.Cache{}, Sources: disc.Sources}
	for _, more := disc.Sources.Known(); len(src.Usable()) == 0; _, more = disc.Sources.Known() {
		<-more
	}
	for _, r := range append(releases, releases[0]) {
		early.Fetch(t.Context(), r, src)
	}
	kept := int64(0)
	for _, data := range early.leaves.All() {
		kept += int64(len(data))
	}
	if n := sent.Load(); n < earlyBytes || n > earlyBytes+cas.MaxBlock || kept != n {
		t.Errorf("%d bytes were sent in %d requests, and %d are kept", n, requests.Load(), kept)
	}
}
