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

// An endpoint that cuts a run short moves behind the other, which does not repeat the run.
func TestAnEndpointThatCutsRunsShortIsTriedLast(t *testing.T) {
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
	var endpoints []*endpoint
	for name, h := range map[string]http.Handler{"cuts": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole := httptest.NewRecorder()
		good.ServeHTTP(whole, r)
		w.Write(whole.Body.Bytes()[:100<<10])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), "gives": good} {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		endpoints = append(endpoints, gatewayEndpoint(name, &gateway.Client{Base: srv.URL}))
	}
	if endpoints[0].name != "cuts" {
		endpoints[0], endpoints[1] = endpoints[1], endpoints[0]
	}
	s.setEndpoints(endpoints)
	taken := 0
	run := func() error {
		return s.getRun(t.Context(), file.CID, leaves, func(int, gateway.RunLeaf) error { taken++; return nil })
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
		"2 of 2 sources and the DHT": {announcers: 2, sources: 2, dht: true},
		"1 of 1 source":              {announcers: 1, sources: 1},
		"the DHT":                    {sources: 1, dht: true},
	} {
		if got := r.summary(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
