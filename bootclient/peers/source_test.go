package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// A source whose answers to three ranges in a row bring nothing gets no further ones, whatever the answers are.
// Busy answers, refused connections and cancelled requests say nothing about ranges.
func TestRangesThatBringNothingEnd(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 300<<10)), "size-65536")
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	if err != nil {
		t.Fatal(err)
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	hang := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, row := range map[string]struct {
		serve http.HandlerFunc
		limit time.Duration // of each request, 0 is none
		ends  bool
	}{
		"status 500":      {status(500), 0, true},
		"status 502":      {status(502), 0, true},
		"status 504":      {status(504), 0, true},
		"password needed": {status(401), 0, true},
		"closes":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, true},
		"resets":          {reset, 0, true},
		"hangs":           {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, true},
		"hangs after 206": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", file.Size-1, file.Size))
			w.WriteHeader(http.StatusPartialContent)
			hang(w, r)
		}, 0, true},
		"busy":              {status(503), 0, false},
		"too many requests": {status(429), 0, false},
		"cancelled":         {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 10 * time.Millisecond, false},
		"is down":           {nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(row.serve)
			defer srv.Close()
			if row.serve == nil {
				srv.Close()
			}
			s := NewSource(KindMirror, srv.URL, nil)
			s.NoRuns.Store(true)
			idle := 100 * time.Millisecond
			if row.limit > 0 {
				idle = time.Minute
			}
			s.SetEndpoints([]*Endpoint{GatewayEndpoint(srv.URL, &gateway.Client{Base: srv.URL, Idle: idle})})
			for i := range maxEmptyRanges {
				if !s.GivesRanges() {
					t.Fatalf("no ranges after %d answers", i)
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if row.limit > 0 {
					ctx, cancel = context.WithTimeout(ctx, row.limit)
				}
				err := s.GetRange(ctx, "stable/x86_64/rootfs", file.Size, leaves, func(int, gateway.RunLeaf) error { return nil })
				cancel()
				if !errors.Is(err, cas.ErrUnreachable) {
					t.Errorf("answer %d: %v", i, err)
				}
			}
			if s.GivesRanges() == row.ends {
				t.Errorf("after %d answers, ranges are requested: %t", maxEmptyRanges, s.GivesRanges())
			}
		})
	}
}

// reset ends the connection with a TCP reset.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
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
