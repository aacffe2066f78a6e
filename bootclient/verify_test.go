package bootclient

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

// What one fetch held when it ended must not keep the next, of the same process, from
// holding anything.
func TestAFetchThatFailsGivesBackWhatItHeld(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 20<<20)), "size-1048576")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gateway.Handler(gateway.Options{Source: store}))
	defer s.Close()
	p := &download{Artifact: manifest.Artifact{Role: manifest.RoleRootfs, Length: file.Size}}
	if p.leaves, err = cas.Leaves(t.Context(), store, file.CID, file.Size); err != nil {
		t.Fatal(err)
	}
	if err := link([]*download{p}); err != nil {
		t.Fatal(err)
	}
	run := func(take func(i int, leaf gateway.Loan) error) {
		t.Helper()
		if err := (&gateway.Client{Base: s.URL}).Run(t.Context(), file.CID, p.leaves, take); err != nil {
			t.Fatal(err)
		}
	}
	run(func(i int, leaf gateway.Loan) error { p.hand.put(i, leaf); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.hash(ctx); !errors.Is(err, context.Canceled) { // nothing landed
		t.Fatal(err)
	}
	held := 0
	run(func(i int, leaf gateway.Loan) error {
		if p.hand.put(i, leaf); leaf.Keep() {
			held++
			defer leaf.Release()
		}
		return nil
	})
	if held != len(p.leaves) || len(p.hand.leaves) > 0 {
		t.Errorf("%d of %d leaves can be held; %d are held for nobody", held, len(p.leaves), len(p.hand.leaves))
	}
}
