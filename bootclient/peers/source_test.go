package peers

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// An endpoint that sends an incomplete run moves behind the other, which does not repeat the run.
func TestAnEndpointThatSendsIncompleteRunsIsTriedLast(t *testing.T) {
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
	s := NewSource(KindPeer, "peer", nil)
	var endpoints []*Endpoint
	for name, h := range map[string]http.Handler{"cuts": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole := httptest.NewRecorder()
		good.ServeHTTP(whole, r)
		w.Write(whole.Body.Bytes()[:100<<10])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), "gives": good} {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		endpoints = append(endpoints, GatewayEndpoint(name, &gateway.Client{Base: srv.URL}))
	}
	if endpoints[0].Name != "cuts" {
		endpoints[0], endpoints[1] = endpoints[1], endpoints[0]
	}
	s.SetEndpoints(endpoints)
	taken := 0
	run := func() error {
		return s.GetRun(t.Context(), file.CID, leaves, func(int, gateway.RunLeaf) error { taken++; return nil })
	}
	if err := run(); !errors.Is(err, cas.ErrUnreachable) || taken == 0 || taken == len(leaves) {
		t.Fatalf("%d leaves and %v", taken, err)
	}
	taken = 0
	if err := run(); err != nil || taken != len(leaves) {
		t.Errorf("then %d of %d leaves and %v", taken, len(leaves), err)
	}
}

func openMirror(name string) *Source {
	s := NewSource(KindMirror, name, nil)
	s.SetEndpoints([]*Endpoint{GatewayEndpoint(name, &gateway.Client{})})
	return s
}

func TestPausesGrowAndStopAtALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openMirror("a")
		for range 12 {
			s.RecordError(t.Context(), cas.ErrUnreachable)
			s.RecordError(t.Context(), cas.ErrUnreachable) // of the same outage
			time.Sleep(s.State().Pause)
		}
		if s.failures != 12 {
			t.Errorf("%d outages counted", s.failures)
		}
		s.RecordError(t.Context(), cas.ErrUnreachable)
		if pause := s.State().Pause; pause != timing.Usual.FailMax {
			t.Errorf("pause is %s", pause)
		}
		if len(s.snapshot().Faults) != 1 {
			t.Errorf("faults: %v", s.stats.Faults)
		}
		s.Delivered(1)
		if st := s.State(); st.Failing || st.Pause > 0 {
			t.Error("a block did not end the pause")
		}
	})
}

func TestABusySourceIsPausedWithoutAFault(t *testing.T) {
	s := openMirror("a")
	for range 20 {
		s.RecordError(t.Context(), fmt.Errorf("asked: %w", &gateway.BusyError{After: 3 * time.Second}))
	}
	st := s.State()
	if st.Failing || st.BanReason != nil || st.Pause < 2*time.Second || st.Pause > 3*time.Second || len(s.snapshot().Faults) != 0 {
		t.Errorf("%+v, faults %v", st, s.snapshot().Faults)
	}
}
