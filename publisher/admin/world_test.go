package admin

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const publisherID = "12D3KooWPublisherItself"

// A site is a publisher with a page: a repository with two channels, and the machines of a fleet.
type site struct {
	*pubtest.World
	reports *reports.Store
	record  *repo.Record
	clock   atomic.Pointer[time.Time] // read by the page's goroutines
	changed chan struct{}
	healthy bool // without problems
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{World: pubtest.New(t), changed: make(chan struct{})}
	s.setNow(time.Now())
	s.Publish(s.now().Add(-10*24*time.Hour), map[string]time.Duration{"timestamp": 11 * 24 * time.Hour, "snapshot": 20 * 24 * time.Hour}, "stable", "edge")
	db, err := reports.Open(t.Context(), s.Path("reports.db"), reports.Options{Publisher: publisherID, Now: s.now})
	pubtest.Check(t, err)
	t.Cleanup(func() { db.Close() })
	s.reports = db
	r, err := repo.Open(t.Context(), s.Repo())
	pubtest.Check(t, err)
	s.record, err = r.NewRecord(s.IPNS)
	pubtest.Check(t, err)
	return s
}

func (s *site) now() time.Time { return *s.clock.Load() }

func (s *site) setNow(now time.Time) { s.clock.Store(&now) }

// state is what a publisher of this repository knows.
func (s *site) state(ctx context.Context) (State, error) {
	r, err := repo.Open(ctx, s.Repo())
	if err != nil {
		return State{}, err
	}
	p, err := r.ReadPointer(ctx)
	if err != nil {
		return State{}, err
	}
	v, err := r.Verdict(ctx, p.Files, s.now())
	if err != nil {
		return State{}, err
	}
	releases, err := r.PublishedReleases(ctx)
	problems := []string{"the store is <b>damaged</b>\u202e"}
	if s.healthy {
		problems = nil
	}
	return State{
		Peer: publisherID, Started: s.now().Add(-time.Hour), Peers: 3, DHTPeers: 2, IPNS: s.record.Name, Head: p.Folder.String(), Timestamp: p.Timestamp, Loaded: s.now().Add(-time.Minute),
		RecordAge: time.Minute, Root: r.Root, Files: p.Files, Verdict: v, Releases: releases, Problems: problems, Blocks: 100, Bytes: 1 << 20,
		Sent: []Sent{{"http", "car", 5 << 20}, {"stream", "block", 3 << 20}},
	}, err
}

// page serves the page of a site with a configuration. Its address is loopback if there is none.
func (s *site) page(c Config) (*Page, *httptest.Server) {
	s.T.Helper()
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	p, err := New(Options{
		Config: c, State: s.state, Reports: s.reports, Now: s.now, Changed: func() <-chan struct{} { return s.changed }, Log: pubtest.VerboseLog(s.T),
	})
	pubtest.Check(s.T, err)
	return p, s.serve(p)
}

func (s *site) serve(p *Page) *httptest.Server {
	ctx, cancel := context.WithCancel(context.Background())
	web := httptest.NewUnstartedServer(p.Handler())
	done := make(chan struct{})
	go func() { p.follow(ctx); close(done) }()
	if web.TLS = p.tls; p.tls != nil {
		web.StartTLS()
	} else {
		web.Start()
	}
	s.T.Cleanup(func() {
		cancel()
		<-done
		web.CloseClientConnections()
		web.Close()
	})
	return web
}

// A machineSpec is a machine that reports.
type machineSpec struct {
	key                     ed25519.PrivateKey
	host, mode, release, as string // as is the result
	failure                 string
	boot                    int
	at                      time.Time
	console                 []string
	text                    string // in every text of the report; "" for usual ones
	duration                int
	noTarget                bool
}

func (m machineSpec) name() string { return hex.EncodeToString(pubtest.Public(m.key)) }

func quoted(s string) string { data, _ := json.Marshal(s); return string(data) }

// report sends a report of a machine.
func (s *site) report(m machineSpec) {
	s.T.Helper()
	word := func(usual string) string {
		if m.text != "" {
			return quoted(m.text)
		}
		return quoted(usual)
	}
	failed := ""
	if m.failure != "" {
		failed = `,"error":` + quoted(m.failure)
	}
	target := fmt.Sprintf(`"target":{"start":%q,"steps":[{"name":"rootfs","at_ms":200,"took_ms":700,"words":"squashfs"}]},`, m.at.Add(-3*time.Second).UTC().Format(time.RFC3339))
	if m.noTarget {
		target = ""
	}
	report := fmt.Sprintf(`{"result":%q%s,"mode":%s,"start":%q,"duration_ms":%d,"release":{"channel":%s,"arch":"x86_64","release":%s,"role_version":1,"timestamp_version":1},
		"tries":{"starts":2,"limit":3},
		"steps":[{"name":%s,"at_ms":0,"took_ms":900,"words":%s},{"name":"resolve","at_ms":900,"took_ms":1200,"words":"stable/x86_64 release v1 from mdns"},
			{"name":"fetch","at_ms":2100,"took_ms":4000,"words":"18 MiB"},{"name":"kexec","at_ms":6100,"took_ms":300%s}],
		%s
		"sources":[{"name":%s,"kind":"mdns","bytes":15000000,"blocks":240},{"name":%q,"kind":"mdns","bytes":3000000,"blocks":50,"faults":[%s]},{"name":"cache","kind":"cache","bytes":1000000,"blocks":16}],
		"refused":[{"source":%s,"what":"timestamp","why":%s}],"served_bytes":4000000,"memory_peak_bytes":90000000}`,
		m.as, failed, word(m.mode), m.at.Add(-10*time.Second).UTC().Format(time.RFC3339), m.duration, word("stable"), word(m.release),
		word("network"), word("eth0 192.0.2.7/24"), failed, target, word("12D3KooWNeighbour"), publisherID, word("late answer"), word("mirror http://192.0.2.1"), word("expired"))
	data, err := bootreport.Sign(s.T.Context(), bootreport.Document{
		Hostname: m.host, Arch: "x86_64", Groups: []string{"lab"}, Recipient: "age1recipient", Console: m.console, BootID: fmt.Sprintf("%032x", m.boot), Report: json.RawMessage(report), SentAt: m.at,
	}, m.key)
	pubtest.Check(s.T, err)
	pubtest.Check(s.T, s.reports.Add(s.T.Context(), data, "192.0.2.7:4000"))
}

// hostile is a text that would be markup, move text around, or be an escape of a terminal.
const hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e\u2066abc\u009b31m\x1b[31m\x00\u200f"

// fleet reports the boots of three honest machines, of which one has failed, and of a hostile one.
func (s *site) fleet() (all []machineSpec) {
	s.T.Helper()
	for i, m := range []machineSpec{
		{host: "kiosk-1", mode: "local", release: "v1", as: "ok", duration: 8200},
		{host: "kiosk-2", mode: "local", release: "v1", as: "failed", failure: "no source is reachable", console: []string{"resolve: no source", "press a key"}, duration: 60000},
		{host: "שלום", mode: "edge", release: "v0", as: "ok", duration: 9100},
		{host: hostile, as: "failed", failure: hostile, console: []string{hostile}, text: hostile, duration: 1},
	} {
		m.key, m.boot, m.at = pubtest.NewKey(s.T), i+1, s.now().Add(-time.Duration(i)*time.Minute)
		s.report(m)
		if i < 3 {
			pubtest.Check(s.T, s.reports.Accept(s.T.Context(), m.name()))
		}
		all = append(all, m)
	}
	return all
}

// mirror serves the gateway of the site as it is now.
func (s *site) mirror() *httptest.Server {
	s.T.Helper()
	p, err := repo.Open(s.T.Context(), s.Repo())
	pubtest.Check(s.T, err)
	pointer, err := p.ReadPointer(s.T.Context())
	pubtest.Check(s.T, err)
	record, err := p.NewRecord(s.IPNS)
	pubtest.Check(s.T, err)
	_, err = record.Point(pointer, s.now())
	pubtest.Check(s.T, err)
	web := httptest.NewServer(gateway.Handler(gateway.Options{Source: pointer.Blocks, IPNS: record.Get}))
	s.T.Cleanup(web.Close)
	return web
}

// paths are those of all views.
func paths(fleet ...[]machineSpec) []string {
	all := []string{"/", "/heads", "/machines", "/machines?state=accepted&sort=duration&dir=up", "/traffic", "/receipts", "/login", "/no/such/view"}
	for _, m := range slices.Concat(fleet...) {
		all = append(all, "/machines/"+m.name(), fmt.Sprintf("/machines/%s/boots/%032x", m.name(), m.boot))
	}
	return all
}

// receipts makes a folder with a receipt that is valid, one that is not, and a hostile name.
func (s *site) receipts() Config {
	s.T.Helper()
	dir := s.Path("receipts")
	pubtest.Check(s.T, os.MkdirAll(dir, 0o755))
	for name, data := range map[string]string{"good.json": "good", "bad.json": "bad", "<b>.json": "hostile"} {
		pubtest.Check(s.T, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644))
	}
	return Config{Receipts: dir, ReadReceipt: func(data []byte) (Receipt, error) {
		switch string(data) {
		case "good":
			return Receipt{Machine: strings.Repeat("ab", 32), Job: "hello.wasm", Channel: "stable", Release: "v1", Reason: "exit", Started: s.now().Add(-time.Hour), Took: 40 * time.Millisecond}, nil
		case "hostile":
			return Receipt{Machine: strings.Repeat("cd", 32), Job: hostile, Channel: hostile, Release: hostile, Reason: hostile, ExitCode: -1}, nil
		}
		return Receipt{}, errors.New("receipt: it was altered after machine ab… signed it")
	}}
}

// get reads a path of the page.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.DefaultClient, http.MethodGet, url, "", header...)
}

// do sends a request without following redirects. A body is a form.
func do(t *testing.T, client *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	pubtest.Check(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(r)
	pubtest.Check(t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	pubtest.Check(t, err)
	return resp, b.String()
}
