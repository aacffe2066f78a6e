package bootclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// swarmMode is a mode that serves others and finds them only by hints.
var swarmMode = modes.Mode{Name: "swarm", Discovery: []string{"mirror"}, Cache: "rw", Identity: "ephemeral", Announce: true, Stale: "refuse"}

// A seeder is a machine that runs in the background and serves.
type seeder struct {
	*machine
	ready     chan report.Ready
	committed chan struct{}
	stop      func() error
}

// starts begins a fetch that continues to serve.
func (m *machine) starts() *seeder {
	m.t.Helper()
	s := &seeder{machine: m, ready: make(chan report.Ready, 1), committed: make(chan struct{})}
	m.cfg.Mode, m.cfg.Share = swarmMode, true
	m.cfg.Ready = func(r report.Ready) { s.ready <- r }
	m.cfg.Stay = func(r report.Ready) {
		if r.Release != "1" && r.Release != "2" || len(r.HTTP) == 0 {
			m.t.Errorf("it says that it serves %+v", r)
		}
		close(s.committed)
	}
	ctx, cancel := context.WithCancel(m.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.fetch(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	m.t.Cleanup(func() { s.stop() })
	return s
}

// loopback returns the plain HTTP origin on loopback.
func loopback(t *testing.T, r report.Ready) string {
	t.Helper()
	for _, o := range r.HTTP {
		if strings.HasPrefix(o, "http://127.0.0.1:") {
			return o
		}
	}
	t.Fatalf("no loopback origin in %v", r.HTTP)
	return ""
}

// A slow publisher serves some leaves of an artifact and delays the others.
type slow struct {
	leaves map[string]bool // of the artifact
	opened chan struct{}

	mu   sync.Mutex
	left int // leaves that it still serves
	gave map[string]bool
}

func (s *slow) bend(w http.ResponseWriter, req *http.Request, good http.Handler) {
	if req.URL.Query().Get("format") == "car" { // as a static mirror would
		q := req.URL.Query()
		q.Set("format", "raw")
		req.URL.RawQuery = q.Encode()
		req.Header.Del("Accept")
	}
	if name := strings.TrimPrefix(req.URL.Path, "/ipfs/"); s.leaves[name] && !s.serves(name) {
		select {
		case <-s.opened:
		case <-req.Context().Done():
			return
		}
	}
	good.ServeHTTP(w, req)
}

func (s *slow) serves(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 && !s.gave[name] {
		s.left--
		s.gave[name] = true
	}
	return s.gave[name]
}

func have(t *testing.T, origin string, root cid.Cid) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, origin+"/have/"+root.String(), nil)
	ok(t, err)
	resp, err := http.DefaultClient.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	bitmap, err := io.ReadAll(resp.Body)
	ok(t, err)
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	return bitmap
}

func ones(bitmap []byte) (n int) {
	for _, b := range bitmap {
		n += bits.OnesCount8(b)
	}
	return n
}

func bit(bitmap []byte, i int) bool { return i/8 < len(bitmap) && bitmap[i/8]&(0x80>>(i%8)) != 0 }

// A machine serves its verified leaves while the others still arrive: those of its bitfield, and
// no others. Afterwards it serves all, and another machine boots from it alone.
func TestAMachineServesVerifiedLeavesWhileItFetches(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	rootfs := r.cids["rootfs"]
	leaves, err := cas.Leaves(t.Context(), r.store, rootfs, int64(len(r.signed["rootfs"])))
	ok(t, err)
	held := &slow{leaves: map[string]bool{}, opened: make(chan struct{}), left: len(leaves) / 2, gave: map[string]bool{}}
	for _, l := range leaves {
		held.leaves[l.CID.String()] = true
	}
	publisher := serve(t, r, held.bend)
	_, address := node(t, p2p.Options{}, publisher.Config.Handler)
	a := newMachine(t, r, "private")
	a.cfg.Peers = []string{address}
	first := a.starts()
	origin := loopback(t, <-first.ready)
	client := &gateway.Client{Base: origin}

	waitUntil(t, func() bool { return ones(have(t, origin, rootfs)) == len(leaves)/2 })
	bitmap := have(t, origin, rootfs)
	for i, l := range leaves {
		_, err := cas.Get(t.Context(), client, l.CID)
		if due := held.gave[l.CID.String()]; bit(bitmap, i) != due || (err == nil) != due {
			t.Errorf("leaf %d: due %t, bit %t, %v", i, due, bit(bitmap, i), err)
		}
	}
	if have(t, origin, cas.Sum(cid.Raw, []byte("foreign"))) != nil {
		t.Error("it has a bitfield of an artifact that it does not fetch")
	}

	close(held.opened)
	<-first.committed
	publisher.Close()
	if n := ones(have(t, origin, rootfs)); n != len(leaves) {
		t.Errorf("a seed has %d of %d leaves", n, len(leaves))
	}
	b := newMachine(t, r, "private")
	b.cfg.Mirrors = []string{origin}
	b.boots(r)

	ok(t, first.stop())
	if first.report.Served() == 0 {
		t.Error("its report does not count the bytes sent to others")
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(origin, "http://")); err == nil {
		t.Error("it still listens after its end")
	}
	if line := fmt.Sprint(a.report); strings.Contains(line, "refused") {
		t.Error(line)
	}
}

// A release with a new root and channel: the serving machine does not need these files of the
// metadata directory, but others may.
func TestAMachineServesTheWholeMetadataFolder(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	old := r.root
	r.replaceOnline(manifest.Discovery{IPNS: []string{r.ipns}})
	_, address := node(t, p2p.Options{}, serve(t, r, nil).Config.Handler)
	a := newMachine(t, r, "private")
	a.cfg.Root, a.cfg.Peers = r.files["2.root.json"], []string{address}
	first := a.starts()
	origin := loopback(t, <-first.ready)
	<-first.committed
	b := newMachine(t, r, "private")
	b.cfg.Root, b.cfg.Mirrors = old, []string{origin}
	b.boots(r)
}

func TestAMachineThatMustNotServeDoesNotListen(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	publisher := serve(t, r, nil)
	_, address := node(t, p2p.Options{}, publisher.Config.Handler)
	proxied, quiet := swarmMode, swarmMode
	proxied.Proxy, quiet.Announce = "http://127.0.0.1:1", false
	for name, tt := range map[string]struct {
		mode  modes.Mode
		share bool
	}{
		"mode private": {quiet, true},
		"a proxy":      {proxied, true},
		"not shared":   {swarmMode, false},
		"served":       {swarmMode, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, r, "private")
			listened := false
			m.cfg.Mode, m.cfg.Share, m.cfg.Peers, m.cfg.Mirrors = tt.mode, tt.share, []string{address}, nil
			m.cfg.Ready = func(report.Ready) { listened = true }
			if tt.mode.Proxy == "" {
				m.boots(r)
			} else {
				m.refuses(4)
			}
			if want := strings.HasPrefix(name, "served"); listened != want {
				t.Errorf("listened %t", listened)
			}
		})
	}
}

// waitUntil polls a condition of another process or goroutine.
func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition never became true")
		}
	}
}

// sockets lists the open TCP listeners and UDP sockets of this process.
func sockets(t *testing.T) map[string]bool {
	t.Helper()
	own := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			own[link] = true
		}
	}
	const listening = "0A"
	open := map[string]bool{}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile("/proc/self/net/" + proto)
		if errors.Is(err, fs.ErrNotExist) { // no IPv6 here
			continue
		}
		ok(t, err)
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if own["socket:["+f[9]+"]"] && (f[3] == listening || strings.HasPrefix(proto, "udp")) {
				open[proto+" "+f[1]] = true
			}
		}
	}
	return open
}

// During a fetch, a private machine has no listener and no mDNS socket. A machine that shares
// has listeners.
func TestAPrivateFetchHasNoOpenPort(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	for name, open := range map[string]bool{"private": false, "swarm": true} {
		t.Run(name, func(t *testing.T) {
			var during map[string]bool
			look := sync.OnceFunc(func() { during = sockets(t) })
			publisher := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
				look()
				good.ServeHTTP(w, req)
			})
			_, address := node(t, p2p.Options{}, publisher.Config.Handler)
			before := sockets(t)
			m := newMachine(t, r, "private")
			m.cfg.Mirrors, m.cfg.Share = []string{publisher.URL}, true
			if name == "swarm" {
				m.cfg.Mode, m.cfg.Peers = swarmMode, []string{address}
			}
			m.boots(r)
			for s := range before {
				delete(during, s)
			}
			if (len(during) > 0) != open {
				t.Errorf("open during the fetch: %v", during)
			}
		})
	}
}
