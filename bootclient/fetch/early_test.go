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

// newEarly returns an Early whose only source is a mirror of a store, and a pool with that source.
// asked is called with each block that is requested.
func newEarly(t *testing.T, store cas.Source, asked func(cid.Cid)) (*Early, peers.Pool) {
	t.Helper()
	good := gateway.Handler(gateway.Options{Source: store})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, err := cid.Decode(strings.TrimPrefix(r.URL.Path, "/ipfs/")); err == nil {
			asked(id)
		}
		good.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	disc, err := peers.Discover(t.Context(), peers.Options{Mirrors: []string{s.URL}, Times: &timing.Usual, Interfaces: net.Interfaces, Log: slog.New(slog.DiscardHandler), Report: report.New(time.Now(), nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(disc.Close)
	src := peers.Pool{Memory: cas.NewMemory(), Cache: &cache.Cache{}, Sources: disc.Sources}
	for _, more := disc.Sources.Known(); len(src.Usable()) == 0; _, more = disc.Sources.Known() {
		<-more
	}
	return NewEarly(disc, nil), src
}

// addRelease adds a file to a store, and returns a release with that artifact.
func addRelease(t *testing.T, store *cas.Memory, role string, data []byte) manifest.Release {
	t.Helper()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(data), cas.DefaultChunker)
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Release{Artifacts: []manifest.Artifact{{Role: role, Length: file.Size, CID: file.CID}}}
}

// A publisher sends at most earlyBytes and one leaf early, of however many releases.
func TestEarlyBytesAreBounded(t *testing.T) {
	store := cas.NewMemory()
	var releases []manifest.Release
	for seed := range byte(3) {
		releases = append(releases, addRelease(t, store, manifest.RoleRootfs, castest.Bytes(seed, 8<<20)))
	}
	var sent, requests atomic.Int64
	early, src := newEarly(t, store, func(c cid.Cid) {
		if c.Type() == cid.Raw {
			data, _ := store.Block(t.Context(), c)
			sent.Add(int64(len(data)))
			requests.Add(1)
		}
	})
	for _, r := range append(releases, releases[0]) {
		early.Fetch(t.Context(), r, src)
	}
	kept := int64(early.leaves.Bytes())
	if n := sent.Load(); n < earlyBytes || n > earlyBytes+cas.MaxBlock || kept != n {
		t.Errorf("%d bytes were sent in %d requests, and %d are kept", n, requests.Load(), kept)
	}
}

// A boot loads one device tree at most, so that no block of one is requested early.
func TestNoDeviceTreeIsFetchedEarly(t *testing.T) {
	store := cas.NewMemory()
	r := addRelease(t, store, "dtb/board.dtb", castest.Bytes(1, 1<<20))
	early, src := newEarly(t, store, func(c cid.Cid) { t.Errorf("%s was requested", c) })
	early.Fetch(t.Context(), r, src)
}

// A source that sends single blocks, such as a stock IPFS node, is one of last resort. It is not
// asked for early leaves.
func TestASourceOfLastResortIsNotAskedForEarlyLeaves(t *testing.T) {
	store := cas.NewMemory()
	r := addRelease(t, store, manifest.RoleRootfs, castest.Bytes(1, 1<<20))
	early, src := newEarly(t, store, func(cid.Cid) {})
	early.disc.Close() // so that the source is not dialled again
	src.Usable()[0].SetEndpoints([]*peers.Endpoint{{Name: "blocks only", Blocks: store}})
	early.Fetch(t.Context(), r, src)
	if n := early.leaves.Bytes(); n > 0 {
		t.Errorf("%d bytes of leaves were fetched", n)
	}
}
