package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/phaseboot/phaseboot/cas"
)

// Live are the figures of a daemon that runs.
type Live struct {
	Peer         string    `json:"peer"`
	Listen       []string  `json:"listen"` // multiaddrs with /p2p/ID at this moment, those at relays among them
	Started      time.Time `json:"started"`
	Peers        int       `json:"peers"`
	DHTPeers     int       `json:"dht_peers"`
	HTTPConns    int       `json:"http_connections"`
	SentBytes    int64     `json:"sent_bytes"`
	Version      int64     `json:"head_version"`
	Expires      time.Time `json:"head_expires"` // the first date at which machines refuse a release
	HeadAge      float64   `json:"head_age_seconds"`
	RecordAge    float64   `json:"record_age_seconds"`
	AnnouncedAge float64   `json:"announced_age_seconds"` // of the oldest DHT record; -1 until all are told
	Announces    int       `json:"announced_cids"`
	Store        cas.Stats `json:"-"`

	verdict Verdict
	healthy bool
}

// An operator answers those who run the daemon, on a listener of its own: /metrics,
// /status and /healthz.
type operator struct {
	registry *prometheus.Registry
	status   func(context.Context) (any, error)
	health   func(context.Context) error // nil while all is well
}

func (o operator) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := o.status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := o.health(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// serve answers until ctx ends.
func (o operator) serve(ctx context.Context, l net.Listener) error {
	web := &http.Server{
		Handler: o.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: time.Minute,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	defer context.AfterFunc(ctx, func() { web.Close() })()
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// operator is what serve says of itself.
func (s *server) operator() operator {
	live := func() Live {
		ctx := context.Background()
		l := s.live(ctx)
		l.healthy = s.health(ctx) == nil
		return l
	}
	s.meter.registry.MustRegister(liveGauges{live, append(append([]gauge{}, netGauges...), serveGauges...)})
	return operator{s.meter.registry, s.status, s.health}
}

func (s *server) status(ctx context.Context) (any, error) {
	status, err := ReadStatus(ctx, StatusOptions{Store: s.Store, Repo: s.repo.dir, Now: s.Now, IgnoreClock: s.IgnoreClock})
	found := s.problems(ctx)
	for _, p := range found {
		if p.kind == unsound && status.Damage == "" {
			status.Damage = p.err.Error()
		}
	}
	return struct {
		Status
		Healthy  bool     `json:"healthy"`
		Problems []string `json:"problems"` // what /healthz says
		Live     Live     `json:"live"`
	}{status, healthy(found) == nil, words(found), s.live(ctx)}, err
}

func (s *server) live(ctx context.Context) Live {
	now := s.Now()
	head, _ := s.heads.current()
	oldest, count := s.announced.get()
	l := Live{
		Peer: s.node.ID().String(), Listen: texts(s.node.Addrs()), Started: s.started, Peers: s.node.Peers(), DHTPeers: s.node.DHTPeers(),
		HTTPConns: s.conns.Open(), SentBytes: s.meter.sent.Load(),
		Version: head.Timestamp, HeadAge: now.Sub(head.taken).Seconds(),
		RecordAge: s.records.age(now).Seconds(), AnnouncedAge: -1, Announces: count,
	}
	if !oldest.IsZero() {
		l.AnnouncedAge = now.Sub(oldest).Seconds()
	}
	if v, err := s.judge(ctx); err == nil {
		l.Expires, l.verdict = v.Until, v
	}
	if stats, err := s.store.Stats(ctx); err == nil { // else it is being stopped
		l.Store = stats
	}
	return l
}

// health says what is wrong, nil when machines accept what is served and will go on to.
func (s *server) health(ctx context.Context) error { return healthy(s.problems(ctx)) }
