package bootclient_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

type bend func(w http.ResponseWriter, req *http.Request, good http.Handler)

// badPeers are sources that send a good pointer and then fail, and the exit code of a machine
// that has no other source.
var badPeers = map[string]struct {
	bend   bend
	exit   int
	blamed bool // a machine with another source reports a fault
}{
	"wrong block":      {flip, cli.ExitCorrupt, true},
	"truncated":        {truncated, cli.ExitNotFound, true},
	"endless":          {endless, cli.ExitCorrupt, true},
	"a byte a second":  {trickle, cli.ExitNotFound, true},
	"stalled":          {stall, cli.ExitNotFound, true},
	"empty":            {empty, cli.ExitCorrupt, true},
	"on fire":          {broken, cli.ExitNotFound, true},
	"lacks everything": {lacking, cli.ExitNotFound, false},
	"closes always":    {func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, cli.ExitNotFound, true},
	"closes at random": {hangup, cli.ExitOK, false},
	"redirects":        {redirect, cli.ExitNotFound, true},
	"header flood":     {headers, cli.ExitNotFound, true},
	"busy for ever":    {busy, cli.ExitNotFound, false},
}

// truncated announces a whole answer and sends half of it.
func truncated(w http.ResponseWriter, req *http.Request, good http.Handler) {
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, req)
	w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

func hangup(w http.ResponseWriter, req *http.Request, good http.Handler) {
	if rand.IntN(3) == 0 {
		panic(http.ErrAbortHandler)
	}
	good.ServeHTTP(w, req)
}

// redirect sends every request to a host that does not answer.
func redirect(w http.ResponseWriter, req *http.Request, _ http.Handler) {
	http.Redirect(w, req, "http://127.0.0.2:9"+req.URL.Path, http.StatusFound)
}

func headers(w http.ResponseWriter, req *http.Request, good http.Handler) {
	for i := range 10_000 {
		w.Header().Set(fmt.Sprintf("X-Flood-%d", i), strings.Repeat("x", 1000))
	}
	good.ServeHTTP(w, req)
}

func busy(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.Header().Set("Retry-After", "3600")
	http.Error(w, "later", http.StatusServiceUnavailable)
}

func TestABadPeerBesideAGoodOneDoesNotStopTheBoot(t *testing.T) {
	for name, row := range badPeers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			bad := serve(t, r, row.bend)
			good := serve(t, r, waiting(&bad.bent))
			m := newMachine(t, r, "private")
			m.cfg.Mirrors = []string{bad.URL, good.URL}
			m.boots(r)
			if s := m.source(good.URL); s.Banned || s.Bytes == 0 {
				t.Errorf("the report says of the good one: %+v", s)
			}
			if s := m.source(bad.URL); row.blamed && len(s.Faults) == 0 {
				t.Errorf("the report says of the bad one: %+v", s)
			}
		})
	}
}

func TestABadPeerAloneEndsTheBootWithAReason(t *testing.T) {
	for name, row := range badPeers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			bad := serve(t, r, row.bend)
			m := newMachine(t, r, "private")
			m.cfg.Mirrors, m.cfg.Timeout = []string{bad.URL}, time.Minute
			switch row.exit {
			case cli.ExitOK:
				m.boots(r)
				return
			case cli.ExitNotFound: // the source may recover until the patience is over
				m.cfg.Patience = 3 * time.Second
			}
			m.refuses(row.exit, bad.URL)
		})
	}
}

// A failed fetch prints the error of each source once, and the remedy.
func TestAMissingBlockIsReportedOnceWithTheRemedy(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	leaves, err := cas.Leaves(t.Context(), r.store, r.cids["rootfs"], int64(len(r.signed["rootfs"])))
	ok(t, err)
	lacks := leaves[len(leaves)/2].CID.String()
	for name, row := range map[string]struct {
		bend bend
		said string
	}{
		"no runs and no leaf": {func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			if strings.HasSuffix(req.URL.Path, lacks) || strings.Contains(req.Header.Get("Accept")+req.URL.RawQuery, "car") {
				broken(w, req, good)
				return
			}
			good.ServeHTTP(w, req)
		}, "status 500"},
		"no inner node": {broken, "status 500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, r, "private")
			m.cfg.Mirrors, m.cfg.Patience = []string{serve(t, r, row.bend).URL}, 4*time.Second
			err := m.fetch(t.Context())
			if cli.Code(err) != cli.ExitNotFound {
				t.Fatalf("exit code %d: %v", cli.Code(err), err)
			}
			if strings.Count(err.Error(), row.said) != 1 || strings.Count(err.Error(), "phase-publish fsck") != 1 {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

func TestARootOfAnotherRepositoryIsRecognized(t *testing.T) {
	t.Parallel()
	other, err := ipnsname.Of(public("other-ipns")[0])
	ok(t, err)
	us, them := newRepo(t, "us", manifest.Discovery{}), newRepo(t, "foreign", manifest.Discovery{})
	root, err := manifest.NewRoot(manifest.RootSpec{
		Root: public("foreign"), Threshold: 1, Online: public("foreign-online"), Discovery: manifest.Discovery{IPNS: []string{other}}, Expires: time.Now().Add(1000 * time.Hour),
	})
	ok(t, err)
	m := newMachine(t, us, "private")
	m.cfg.Root, m.cfg.Timeout = sign(t, root, "foreign"), answerTime
	m.cfg.Mirrors = []string{serve(t, us, nil).URL, serve(t, them, nil).URL}
	m.refuses(cli.ExitNotFound, "2 sources answered, none knows this repository's name "+other, "is it the right root.json?")
}

// Sources that do not know the repository's name prove nothing about unreachable ones.
func TestAMirrorOfAnotherRepositoryDoesNotHideAnUnreachableOne(t *testing.T) {
	t.Parallel()
	m := newMachine(t, newRepo(t, "us", manifest.Discovery{}), "private")
	foreign := httptest.NewServer(http.NotFoundHandler())
	defer foreign.Close()
	m.cfg.Timeout = answerTime
	m.cfg.Mirrors = []string{"http://127.0.0.1:1", foreign.URL}
	m.refuses(cli.ExitNotFound, "mirror http://127.0.0.1:1: ", "refused", "name a source with --mirror")
}

// A slow source has made no fault, and was named.
func TestASlowMirrorIsNamedOnTheConsole(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m, console := newMachine(t, r, "private"), new(bytes.Buffer)
	m.cfg.Report = report.New(time.Now(), console)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	defer slow.Close()
	m.cfg.Mirrors, m.cfg.Timeout = []string{slow.URL}, 5*time.Second
	if err := m.fetch(t.Context()); cli.Code(err) != cli.ExitNotFound {
		t.Errorf("exit code %d: %v", cli.Code(err), err)
	}
	if said := console.String(); !strings.Contains(said, "searching (up to 5s): no answer for 3s from mirror "+slow.URL) || strings.Contains(said, "no mirror") {
		t.Errorf("it says:\n%s", said)
	}
}

func TestAnInterruptedFetchDoesNotAskForAnotherSource(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	ctx, cancel := context.WithCancel(t.Context())
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, func(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
		cancel()
		<-req.Context().Done()
	}).URL}
	err := m.fetch(ctx)
	if cli.Code(err) != cli.ExitInterrupted || strings.Contains(err.Error(), "another source") {
		t.Errorf("exit code %d: %v", cli.Code(err), err)
	}
}

func TestABusySourceIsRetriedWithoutAFault(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	var asked atomic.Int32
	s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if asked.Add(1) == 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		good.ServeHTTP(w, req)
	})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.boots(r)
	if got := m.source(s.URL); len(got.Faults) != 0 || got.Banned {
		t.Errorf("the report says %+v", got)
	}
}

// claimsAll claims every leaf in its bitfield, and then answers with then.
func claimsAll(r *repo, then bend) http.Handler {
	honest := (&server{bend: then}).handler(r)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if name, ok := strings.CutPrefix(req.URL.Path, "/have/"); ok {
			w.Write(allBits(r, name))
			return
		}
		honest.ServeHTTP(w, req)
	})
}

// allBits is the full bitfield of an artifact.
func allBits(r *repo, root string) []byte {
	for role, c := range r.cids {
		if c.String() != root {
			continue
		}
		n := r.leaves(role)
		out := make([]byte, (n+7)/8)
		for i := range n {
			out[i/8] |= 0x80 >> (i % 8)
		}
		return out
	}
	return nil
}

func TestAPeerWithAFalseBitfieldDoesNotStopTheBoot(t *testing.T) {
	for name, then := range map[string]bend{"has nothing": lacking, "sends wrong bytes": flip, "never answers": stall} {
		t.Run(name+", beside the publisher", func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			_, bad := node(t, p2p.Options{}, claimsAll(r, then))
			_, good := node(t, p2p.Options{}, (&server{}).handler(r))
			m := newMachine(t, r, "private")
			m.cfg.Peers = []string{bad, good}
			m.boots(r)
		})
		t.Run(name+", alone", func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			_, bad := node(t, p2p.Options{}, claimsAll(r, then))
			m := newMachine(t, r, "private")
			m.cfg.Peers, m.cfg.Patience = []string{bad}, 3*time.Second
			if err := m.fetch(t.Context()); cli.Code(err) != cli.ExitNotFound && cli.Code(err) != cli.ExitCorrupt {
				t.Errorf("exit code %d: %v", cli.Code(err), err)
			}
		})
	}
}

// All peers of the DHT are the attacker's: they store and serve an old pointer, claim every
// leaf and send wrong bytes.
func TestADHTOfAttackersDoesNotKeepAMachineFromItsMirror(t *testing.T) {
	t.Parallel()
	prefix := "/phaseboot/test-sybil"
	r := newRepo(t, "us", manifest.Discovery{DHTPrefix: prefix})
	old := r.frozen()
	_, entrance := node(t, p2p.Options{DHT: p2p.DHTServer, Prefix: prefix}, nil)
	info, err := p2p.ParsePeers([]string{entrance})
	ok(t, err)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	for range 3 {
		attacker, _ := node(t, p2p.Options{DHT: p2p.DHTServer, Prefix: prefix, Bootstrap: info}, (&server{bend: flip}).handler(old))
		ok(t, attacker.PutIPNS(t.Context(), old.ipns, old.record))
		ok(t, attacker.Provide(t.Context(), old.directory))
		ok(t, attacker.Provide(t.Context(), r.directory))
		for _, c := range r.cids {
			ok(t, attacker.Provide(t.Context(), c))
		}
	}
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror", "dht"}
	m.cfg.Bootstrap = []string{entrance}
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
}
