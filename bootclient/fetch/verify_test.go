package fetch

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

// The buffers of a failed fetch must not reduce those of the next fetch in the same process.
func TestAFailedFetchReleasesItsBuffers(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 20<<20)), "size-1048576")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gateway.Handler(gateway.Options{Source: store}))
	defer s.Close()
	dl := &download{Artifact: manifest.Artifact{Role: manifest.RoleRootfs, Length: file.Size}}
	if dl.leaves, err = cas.Leaves(t.Context(), store, file.CID, file.Size); err != nil {
		t.Fatal(err)
	}
	if err := linkDownloads([]*download{dl}); err != nil {
		t.Fatal(err)
	}
	run := func(take func(i int, leaf gateway.RunLeaf) error) {
		t.Helper()
		if err := (&gateway.Client{Base: s.URL}).Run(t.Context(), file.CID, dl.leaves, take); err != nil {
			t.Fatal(err)
		}
	}
	run(func(i int, leaf gateway.RunLeaf) error { dl.reorder.put(i, leaf); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dl.hash(ctx); !errors.Is(err, context.Canceled) { // no leaf was written
		t.Fatal(err)
	}
	held := 0
	run(func(i int, leaf gateway.RunLeaf) error {
		if dl.reorder.put(i, leaf); leaf.Retain() {
			held++
			defer leaf.Release()
		}
		return nil
	})
	if held != len(dl.leaves) || len(dl.reorder.leaves) > 0 {
		t.Errorf("%d of %d leaves can be kept; %d are still kept", held, len(dl.leaves), len(dl.reorder.leaves))
	}
}
