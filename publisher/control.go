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

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// Live are the figures of a running daemon.
type Live struct {
	Peer         string     `json:"peer"`
	Listen       []string   `json:"listen"` // current multiaddrs with /p2p/ID, addresses at relays included
	Started      time.Time  `json:"started"`
	Peers        int        `json:"peers"`
	DHTPeers     int        `json:"dht_peers"`
	HTTPConns    int        `json:"http_connections"`
	SentBytes    int64      `json:"sent_bytes"`
	Version      int64      `json:"head_version"`
	Expires      time.Time  `json:"head_expires"` // the first date at which machines refuse a release
	PointerAge   float64    `json:"head_age_seconds"`
	RecordAge    float64    `json:"record_age_seconds"`
	AnnouncedAge float64    `json:"announced_age_seconds"` // of the oldest announcement in the DHT; -1 until all are made
	Announces    int        `json:"announced_cids"`
	Store        pack.Stats `json:"-"`
	// Machines are figures of the boot reports; nil if none are taken.
	Machines *reports.Stats `json:"machines,omitempty"`
	// Mirrors are those that root.json lists, as they were when they were last asked.
	Mirrors []MirrorState `json:"mirrors,omitempty"`

	verdict  repo.Verdict
	healthy  bool
	problems [len(kindWords)]int
	running  []reports.Running
}

// scrapeTime is how long the figures of one scrape may take: a collector knows no context of the request,
// and an object store may not answer.
const scrapeTime = 10 * time.Second

// A control answers the operator on a listener of its own: /metrics, /status and /healthz.
type control struct {
	registry *prometheus.Registry
	status   func(context.Context) (any, error)
	health   func(context.Context) error // nil when there is no problem
}

func (c control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := c.status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := c.health(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// serve answers until ctx ends.
func (c control) serve(ctx context.Context, l net.Listener) error {
	web := &http.Server{
		Handler: c.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: time.Minute,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	defer context.AfterFunc(ctx, func() { web.Close() })()
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// control reports on this daemon.
func (s *server) control() control {
	live := func() Live {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
		defer cancel()
		l := s.live(ctx)
		found := s.problems(ctx)
		l.healthy = len(unhealthy(found)) == 0
		for _, p := range found {
			l.problems[p.kind]++
		}
		if s.reports != nil {
			l.running, _ = s.reports.Running(ctx) // an error while the daemon stops
		}
		return l
	}
	s.meter.registry.MustRegister(liveGauges{live, append(append([]gauge{}, netGauges...), serveGauges...)})
	return control{s.meter.registry, s.status, s.health}
}

func (s *server) status(ctx context.Context) (any, error) {
	if err := s.askStore(ctx); err != nil {
		return nil, err
	}
	status, err := store.ReadStatus(ctx, store.StatusOptions{Store: s.Store, Packs: s.packs, Repo: s.repo.Dir, Now: s.Now, IgnoreClock: s.IgnoreClock})
	found := s.problems(ctx)
	for _, p := range found {
		if p.kind == damaged && status.Damage == "" {
			status.Damage = p.err.Error()
		}
	}
	texts := []string{}
	for _, err := range unhealthy(found) {
		texts = append(texts, err.Error())
	}
	return struct {
		store.Status
		Healthy  bool     `json:"healthy"`
		Problems []string `json:"problems"` // that /healthz reports
		Live     Live     `json:"live"`
	}{status, len(texts) == 0, texts, s.live(ctx)}, err
}

func (s *server) live(ctx context.Context) Live {
	now := s.Now()
	current, _ := s.source.current()
	l := Live{
		Peer: s.node.ID().String(), Listen: s.node.Endpoints(nil).Listen, Started: s.started, Peers: s.node.Peers(), DHTPeers: s.node.DHTPeers(),
		HTTPConns: s.conns.Open(), SentBytes: s.meter.sent.Load(),
		Version: current.Timestamp, PointerAge: now.Sub(current.loaded).Seconds(),
		RecordAge: s.record().Age(now).Seconds(), AnnouncedAge: -1,
	}
	if a := s.announced.Load(); a != nil {
		if l.Announces = a.count; !a.oldest.IsZero() {
			l.AnnouncedAge = now.Sub(a.oldest).Seconds()
		}
	}
	if v, err := s.verdict(ctx); err == nil {
		l.Expires, l.verdict = v.Until, v
	}
	l.Store = s.storeStats(ctx)
	if m := s.mirrors.Load(); m != nil {
		l.Mirrors = *m
	}
	if s.reports != nil {
		if stats, err := s.reports.Stats(ctx); err == nil {
			l.Machines = &stats
		}
	}
	return l
}
