package bootclient

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// A way that cuts a run short comes behind the other, which is not asked to begin anew.
func TestAWayThatCutsRunsShortIsNotTheFirstAgain(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 300<<10)), "size-65536")
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	if err != nil {
		t.Fatal(err)
	}
	good := gateway.Handler(gateway.Options{Source: store})
	s := newSource(kindPeer, "peer", nil)
	var ways []*way
	for name, h := range map[string]http.Handler{"cuts": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole := httptest.NewRecorder()
		good.ServeHTTP(whole, r)
		w.Write(whole.Body.Bytes()[:100<<10])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), "gives": good} {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		ways = append(ways, gatewayWay(name, &gateway.Client{Base: srv.URL}))
	}
	if ways[0].name != "cuts" {
		ways[0], ways[1] = ways[1], ways[0]
	}
	s.opened(ways)
	taken := 0
	run := func() error {
		return s.run(t.Context(), file.CID, leaves, func(int, gateway.Loan) error { taken++; return nil })
	}
	if err := run(); !errors.Is(err, cas.ErrUnreachable) || taken == 0 || taken == len(leaves) {
		t.Fatalf("%d leaves and %v", taken, err)
	}
	taken = 0
	if err := run(); err != nil || taken != len(leaves) {
		t.Errorf("then %d of %d leaves and %v", taken, len(leaves), err)
	}
}

func TestTheDHTIsNotCountedAsASource(t *testing.T) {
	for want, r := range map[string]resolution{
		"2 of 2 sources and the DHT": {same: 2, all: 2, dht: true},
		"1 of 1 source":              {same: 1, all: 1},
		"the DHT":                    {all: 1, dht: true},
	} {
		if got := r.words(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
