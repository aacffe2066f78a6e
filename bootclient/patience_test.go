package bootclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bitswap"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// saying answers requests for a record with a text: all of them, or the first times of them if
// times is not 0.
func saying(text string, times int32, good http.Handler) http.Handler {
	var said atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/ipns/") && (times == 0 || said.Add(1) <= times) {
			w.Write([]byte(text))
			return
		}
		good.ServeHTTP(w, req)
	})
}

// A web server that is not ready may answer with a page and status 200.
func TestAPageInPlaceOfARecordIsRetried(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	for _, text := range []string{`{"status":"starting"}`, "no record at all", "", "<html>back soon</html>", "\n"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			s := serve(t, r, nil)
			s.Config.Handler = saying(text, 2, s.Config.Handler)
			m := newMachine(t, r, "private")
			m.cfg.Hurry(10)
			m.cfg.Mirrors = []string{s.URL}
			m.boots(r)
		})
		t.Run(text+", for ever", func(t *testing.T) {
			t.Parallel()
			s := serve(t, r, nil)
			s.Config.Handler = saying(text, 0, s.Config.Handler)
			m := newMachine(t, r, "private")
			m.cfg.Hurry(10)
			m.cfg.Mirrors, m.cfg.Timeout = []string{s.URL}, answerTime
			m.refuses(cli.ExitNotFound, s.URL, "record")
		})
	}
}

// A source that is refused answers first, and the publisher starts later.
func TestARefusedSourceDoesNotEndTheSearch(t *testing.T) {
	t.Parallel()
	r, other := newRepo(t, "us", manifest.Discovery{}), newRepo(t, "foreign", manifest.Discovery{})
	for name, first := range map[string]http.Handler{
		"text":            saying("no record at all", 0, http.NotFoundHandler()),
		"untrusted":       (&server{}).handler(other),
		"wrong metadata":  tampered(r),
		"another's names": http.NotFoundHandler(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faulty := httptest.NewServer(first)
			t.Cleanup(faulty.Close)
			late, addr := node(t, p2p.Options{}, nil)
			m := newMachine(t, r, "private")
			m.cfg.Mirrors, m.cfg.Peers = []string{faulty.URL}, []string{addr}
			m.cfg.Hurry(10)
			timer := time.AfterFunc(2*time.Second, func() { late.Serve((&server{}).handler(r)) })
			defer timer.Stop()
			m.boots(r)
		})
	}
}

// tampered sends the right record and wrong blocks.
func tampered(r *repo) http.Handler {
	good := (&server{}).handler(r)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/ipfs/") {
			flip(w, req, good)
			return
		}
		good.ServeHTTP(w, req)
	})
}

// The mode may allow the last good release, for whatever reason there is no newer one.
func TestTheLastGoodReleaseIsUsedAfterAnyRefusal(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(*repo) http.Handler{
		"untrusted":      func(*repo) http.Handler { return (&server{}).handler(newRepo(t, "foreign", manifest.Discovery{})) },
		"wrong metadata": tampered,
		"text":           func(*repo) http.Handler { return saying("no record at all", 0, http.NotFoundHandler()) },
		"nothing":        func(*repo) http.Handler { return http.NotFoundHandler() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			m := newMachine(t, r, "internet")
			m.cfg.Mode.Discovery, m.cfg.Mode.Stale = []string{"mirror"}, "last-good"
			m.cfg.Cache, m.cfg.Mirrors = t.TempDir(), []string{serve(t, r, nil).URL}
			m.boots(r)
			faulty := httptest.NewServer(bad(r))
			t.Cleanup(faulty.Close)
			m.cfg.Mirrors, m.cfg.Timeout = []string{faulty.URL}, answerTime
			m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
			m.boots(r)
			if !strings.Contains(m.said(), faulty.URL) {
				t.Errorf("the report does not say what was refused: %s", m.said())
			}
		})
	}
}

// said returns the refusals of the report.
func (m *machine) said() string {
	var b strings.Builder
	for _, r := range m.report.Refused() {
		b.WriteString(r.Source + ": " + r.What + ": " + r.Why + "\n")
	}
	return b.String()
}

func TestANewerReleaseOfASlowSourceWinsOverTheCache(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	first := serve(t, r, nil)
	m.cfg.Mirrors = []string{first.URL}
	m.boots(r)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	slow := serve(t, r, nil)
	good := slow.Config.Handler
	slow.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		time.Sleep(300 * time.Millisecond) // as far away as it gets
		good.ServeHTTP(w, req)
	})
	m.cfg.Mirrors = []string{slow.URL, "http://127.0.0.1:1"}
	m.boots(r)
	if _, err := os.Stat(filepath.Join(m.out, "rootfs")); err == nil {
		t.Error("the older release of the cache was taken")
	}
}

func TestACacheBootsBesideSourcesThatAreDownOrFaulty(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	faulty := httptest.NewServer(tampered(r))
	t.Cleanup(faulty.Close)
	for name, mirrors := range map[string][]string{
		"down": {"http://127.0.0.1:1"}, "faulty": {faulty.URL}, "both": {"http://127.0.0.1:1", faulty.URL}, "none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, r, "internet")
			m.cfg.Mode.Discovery, m.cfg.Mode.Cache = []string{"mirror"}, "ro"
			m.cfg.Cache, m.cfg.Mirrors = cache, mirrors
			m.cfg.Hurry(5)
			m.boots(r)
		})
	}
}

func TestAMachineWithoutANetworkInterfaceSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	lo := net.Interface{Name: "lo", Flags: net.FlagUp | net.FlagLoopback}
	m := newMachine(t, r, "local")
	m.cfg.Interfaces(lo)
	m.cfg.Timeout = time.Hour
	m.refuses(cli.ExitNotFound, "no network interface", "driver")
	if err := m.fetch(t.Context()); !errors.Is(err, peers.ErrNoInterface) {
		t.Error(err)
	}
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	m = newMachine(t, r, "local")
	m.cfg.Interfaces(lo)
	m.cfg.Cache = t.TempDir()
	filled(t, r, m.cfg.Cache)
	m.boots(r)
}

// The only publisher is down for a while in the middle of a fetch.
func TestAPublisherThatIsGoneForAWhileIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	inner := (&server{}).handler(r)
	var blocks atomic.Int32
	gone := new(event)
	var g *gate
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/ipfs/") && blocks.Add(1) == 16 {
			g.set(true) // before the answer, or the rest of the release comes first
			gone.happens()
		}
		inner.ServeHTTP(w, req)
	}))
	g = &gate{Listener: s.Listener}
	s.Listener = g
	s.Start()
	t.Cleanup(func() { closeServer(s) })
	console := &lines{}
	m := newMachine(t, r, "private")
	m.report = report.New(time.Now(), console)
	m.cfg.Report, m.cfg.Mirrors = m.report, []string{s.URL}
	m.cfg.Hurry(5)
	shown := map[int64]int{}
	m.cfg.Progress = func(done, _ int64) { shown[done]++ }
	go func() {
		<-gone.happened()
		<-console.prints("no answer for ")
		g.set(false)
	}()
	m.boots(r)
	if said := console.String(); !strings.Contains(said, "fetch: no block for ") || !strings.Contains(said, "s from mirror "+s.URL) {
		t.Errorf("the console says:\n%s", said)
	}
	for done, times := range shown {
		if times > 2 { // the last value is shown twice
			t.Errorf("%d bytes were reported %d times", done, times)
		}
	}
}

// A publisher that starts may serve Bitswap a moment before HTTP.
func TestAPeerThatServesBlocksFirstIsAskedForItsRecordLater(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	n, addr := node(t, p2p.Options{}, nil)
	ok(t, n.ServeBitswap(bitswap.Options{Store: r.store}))
	m, console := newMachine(t, r, "private"), &lines{}
	m.report = report.New(time.Now(), console)
	m.cfg.Report, m.cfg.Peers = m.report, []string{addr}
	m.cfg.Hurry(5)
	served := make(chan error, 1)
	go func() {
		<-console.prints("blocks only")
		served <- n.Serve((&server{}).handler(r))
	}()
	m.boots(r)
	ok(t, <-served)
}

// A machine whose cables are all unplugged boots a complete cache without waiting for other sources. A
// table with an hour for them shows it.
func TestACacheBootsAtOnceWithoutALink(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	up := net.FlagUp | net.FlagBroadcast | net.FlagMulticast
	lo := net.Interface{Name: "lo", Flags: net.FlagUp | net.FlagLoopback | net.FlagRunning}
	for _, mode := range []string{"internet", "local"} {
		t.Run(mode, func(t *testing.T) {
			m := newMachine(t, r, mode)
			m.cfg.Cache, m.cfg.Timeout = cache, time.Hour
			m.cfg.Interfaces(lo, net.Interface{Name: "eth0", Flags: up})
			m.cfg.WaitForNewer(time.Hour)
			m.boots(r)
		})
	}
	m := newMachine(t, r, "local")
	m.cfg.Cache, m.cfg.Timeout = cache, time.Hour
	m.cfg.Interfaces(lo, net.Interface{Name: "eth0", Flags: up}, net.Interface{Name: "eth1", Flags: up | net.FlagRunning})
	m.cfg.WaitForNewer(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := m.fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a link, the boot did not wait for other sources: %v", err)
	}
}

// Cached knows beforehand what a boot without a source takes.
func TestCachedIsWhatBootsWithoutASource(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	whole, partial := t.TempDir(), t.TempDir()
	filled(t, r, whole)
	filled(t, r, partial)
	ok(t, os.RemoveAll(filepath.Join(partial, "blocks")))
	later := func() time.Time { return time.Now().Add(30 * time.Hour) }
	for _, tt := range []struct {
		name, cache, stale string
		now                func() time.Time
		boots, lastGood    bool
	}{
		{"a whole release", whole, "refuse", nil, true, false},
		{"whole, in a mode that allows the last good release", whole, "last-good", nil, true, false},
		{"expired", whole, "refuse", later, false, false},
		{"expired, in a mode that allows the last good release", whole, "last-good", later, true, true},
		{"no blocks", partial, "last-good", nil, false, false},
		{"no blocks, expired", partial, "last-good", later, false, false},
		{"empty", t.TempDir(), "last-good", nil, false, false},
		{"no cache", "", "last-good", nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, r, "internet")
			m.cfg.Cache, m.cfg.Now, m.cfg.Mode.Stale = tt.cache, tt.now, tt.stale
			v, err := bootclient.Cached(t.Context(), m.cfg)
			if (err == nil) != tt.boots || (v != nil) != tt.boots || v != nil && v.LastGood() != tt.lastGood {
				t.Errorf("got %v, %v", v, err)
			}
			if steps, _ := json.Marshal(m.report); strings.Contains(string(steps), "cache") {
				t.Errorf("the report has %s", steps)
			}
		})
	}
}
