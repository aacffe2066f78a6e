package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

func (w *world) serveOptions() ServeOptions {
	listen, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	check(w.t, err)
	return ServeOptions{
		Store: w.path("store"), Repo: w.repo(), Online: w.onlineKey(), IPNS: w.ipns, HTTP: "127.0.0.1:0",
		Network: Network{Listen: listen, DHT: DHTPrivate}, Log: testLog(w.t),
	}
}

// serveFirst serves a first release over plain HTTP, without a DHT.
func (w *world) serveFirst() (Ready, *gateway.Client) {
	w.t.Helper()
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT = DHTOff
	r, _ := w.serve(opts)
	return r, &gateway.Client{Base: r.HTTP[0]}
}

// serve runs a daemon until the test ends, or stop is called.
func (w *world) serve(opts ServeOptions) (r Ready, stop func()) {
	w.t.Helper()
	ready, done := make(chan Ready, 1), make(chan error, 1)
	opts.Ready = func(r Ready) error { ready <- r; return nil }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- Serve(ctx, opts) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			w.t.Errorf("serve: %v", err)
		}
	}
	w.t.Cleanup(stop)
	select {
	case r = <-ready:
	case err := <-done:
		stopped = true
		w.t.Fatalf("serve: %v", err)
	case <-time.After(time.Minute):
		w.t.Fatal("not ready")
	}
	return r, stop
}

// resolve reads the head over a gateway and checks its record.
func resolve(t *testing.T, gw *gateway.Client, name string) (head string, seq uint64) {
	t.Helper()
	rec, err := gw.IPNS(t.Context(), name)
	check(t, err)
	c, seq, err := p2p.CheckRecord(name, rec)
	check(t, err)
	return c.String(), seq
}

func TestServeAnswersOverHTTPStreamsAndTheDHT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	added := w.add(w.sign(1, "v1", w.release))
	r, stop := w.serve(w.serveOptions())
	if r.Head != added.Head || len(r.HTTP) != 1 || len(r.Listen) != 1 {
		t.Fatalf("ready says %+v", r)
	}
	self, err := p2p.ParsePeers(r.Listen)
	check(t, err)
	root, err := manifest.ParseRoot(w.read("repo/1.root.json"))
	check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTClient, Prefix: root.Discovery().DHTPrefix, Bootstrap: self})
	check(t, err)
	defer machine.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rec, err := machine.GetIPNS(ctx, r.IPNS)
	check(t, err)
	head, seq, err := p2p.CheckRecord(r.IPNS, rec)
	check(t, err)
	if head.String() != r.Head || seq != 1 {
		t.Errorf("the DHT says %s, %d", head, seq)
	}
	provider, ok := <-machine.FindProviders(ctx, head)
	if !ok {
		t.Fatal("no provider")
	}
	streams, err := machine.Gateway(ctx, provider)
	check(t, err)
	if got := machine.HTTPAddrs(provider.ID); fmt.Sprint(got) != fmt.Sprint(r.HTTP) {
		t.Errorf("identify says %q, ready %q", got, r.HTTP)
	}
	for name, gw := range map[string]*gateway.Client{"streams": streams, "HTTP": {Base: r.HTTP[0]}} {
		head, _ := resolve(t, gw, r.IPNS)
		v := w.verify(folder{gw, head})
		for _, a := range v.Release().Artifacts {
			var got bytes.Buffer
			check(t, cas.Copy(t.Context(), &got, gw, a.CID, a.Length))
			if !bytes.Equal(got.Bytes(), w.read("artifacts/"+a.Role)) {
				t.Errorf("%s: %s differs", name, a.Role)
			}
		}
	}
	stop()
	if _, err := (&gateway.Client{Base: r.HTTP[0]}).IPNS(t.Context(), r.IPNS); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestServePicksUpANewHeadAndKeepsTheOldOneReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT = DHTOff
	r, _ := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	w.write("artifacts/kernel", bytes.Repeat([]byte("new kernel "), 10_000))
	second := w.add(w.sign(2, "v2", w.release))
	eventually(t, "the new head", func() bool {
		head, seq := resolve(t, gw, r.IPNS)
		return head == second.Head && seq == 2
	})
	if got := w.verify(folder{gw, second.Head}).Release().Version; got != "v2" {
		t.Errorf("got %q", got)
	}
	if got := w.verify(folder{gw, first.Head}).Release().Version; got != "v1" {
		t.Errorf("the old head gives %q", got)
	}
	kernel, _ := w.verify(folder{gw, second.Head}).Release().Artifact("kernel")
	var got bytes.Buffer
	check(t, cas.Copy(t.Context(), &got, gw, kernel.CID, kernel.Length))
}

func TestServeSignsTheTimestampAgainBeforeItExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const life = 12 * time.Second
	opts := w.options(w.sign(1, "v1", w.release))
	opts.Online.Expiry = life
	_, err := Add(t.Context(), opts)
	check(t, err)
	serve := w.serveOptions()
	serve.DHT, serve.Online.Expiry = DHTOff, life
	r, _ := w.serve(serve)
	gw := &gateway.Client{Base: r.HTTP[0]}
	for end := time.Now().Add(3 * life); ; time.Sleep(200 * time.Millisecond) {
		head, seq := resolve(t, gw, r.IPNS)
		w.verify(folder{gw, head}) // at no moment has it expired
		if seq >= 3 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v the sequence is %d", 3*life, seq)
		}
	}
}

func TestServeMendsATimestampThatExpiredWhileItWasOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signing = time.Now().Add(-48 * time.Hour)
	opts := w.options(w.sign(1, "v1", w.release))
	opts.Now = func() time.Time { return w.signing }
	_, err := Add(t.Context(), opts)
	check(t, err)
	serve := w.serveOptions()
	serve.DHT = DHTOff
	r, _ := w.serve(serve)
	w.verify(folder{&gateway.Client{Base: r.HTTP[0]}, r.Head})
}

// A repository on a read-only disk: what is signed is served as long as it is good.
func TestServeStartsWhereItCannotSignAgain(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "1.0", w.release))
	check(t, os.RemoveAll(filepath.Join(w.repo(), ".lock")))
	check(t, os.Mkdir(filepath.Join(w.repo(), ".lock"), 0o755)) // cannot be opened, not even by root
	opts := w.serveOptions()
	opts.Online.Expiry = 90 * 24 * time.Hour // so that the one there is old
	_, stop := w.serve(opts)
	stop()
	opts.Now = func() time.Time { return time.Now().Add(100 * 24 * time.Hour) }
	w.serve(opts) // which machines refuse; TestMonitoringIsRedWhileMachinesRefuse
}

func TestServeKeepsItsHeadWhenTheRepositoryIsDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw := w.serveFirst()
	good := w.read("repo/timestamp.json")
	for _, bad := range [][]byte{good[:len(good)/2], nil, bytes.Replace(good, []byte("sha256"), []byte("sha257"), 1)} {
		w.write("repo/timestamp.json", bad)
		time.Sleep(3 * settle)
		if head, _ := resolve(t, gw, r.IPNS); head != r.Head {
			t.Fatalf("the head moved to %s", head)
		}
	}
	w.write("repo/timestamp.json", good)
	w.verify(folder{gw, r.Head})
}

func TestServeGivesAChangedFolderANewSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw := w.serveFirst()
	root, err := manifest.NewRoot(manifest.RootSpec{
		Version: 2, Root: publics(w.root), Threshold: 1, Online: publics(w.online),
		Discovery: manifest.Discovery{IPNS: []string{r.IPNS}}, Expires: time.Now().Add(time.Hour),
	})
	check(t, err)
	data, err := seal(manifest.KindRoot, root, signer(t, w.root))
	check(t, err)
	w.write("repo/2.root.json", data)
	eventually(t, "sequence 2", func() bool {
		head, seq := resolve(t, gw, r.IPNS)
		return seq == 2 && head != r.Head
	})
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	stranger := newKey(t)
	for _, tt := range []struct {
		name  string
		spoil func(w *world, o *ServeOptions)
		want  error // nil: any
		says  string
	}{
		{"a repository without a release", func(w *world, _ *ServeOptions) {
			os.Remove(w.path("repo/timestamp.json"))
		}, fs.ErrNotExist, "no release yet: file does not exist; add one with phase-publish add"},
		{"a missing store", func(w *world, o *ServeOptions) { o.Store = w.path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file as store", func(w *world, o *ServeOptions) { o.Store = w.path("artifacts/kernel") }, fs.ErrInvalid, "is a file"},
		{"a store without the release", func(w *world, o *ServeOptions) {
			o.Store = filepath.Join(w.dir, "empty")
			os.Mkdir(o.Store, 0o755)
		}, fs.ErrNotExist, "phase-publish add"},
		{
			"a taken port", func(_ *world, o *ServeOptions) { o.HTTP = taken.Addr().String() }, nil,
			"--http " + taken.Addr().String() + ": address in use; choose another port or stop the other process",
		},
		{"an HTTP address without a port", func(_ *world, o *ServeOptions) { o.HTTP = "127.0.0.1" }, fs.ErrInvalid, "HOST:PORT"},
		{"an address of another machine", func(_ *world, o *ServeOptions) { o.HTTP = "192.0.2.99:80" }, fs.ErrInvalid, "not an address of this machine"},
		{"an unknown DHT", func(_ *world, o *ServeOptions) { o.DHT = "dark" }, fs.ErrInvalid, "private, public or off"},
		{"an online key that root.json does not name", func(_ *world, o *ServeOptions) {
			o.Online = Online{Signer: signer(t, stranger), Public: public(stranger)}
		}, manifest.ErrSignature, "--online-key"},
		{"an IPNS key that root.json does not name", func(_ *world, o *ServeOptions) { o.IPNS = stranger }, fs.ErrInvalid, "--ipns-key"},
		{"a garbled identity", func(w *world, o *ServeOptions) {
			w.write("peer.key", []byte("nonsense"))
			o.Identity = w.path("peer.key")
		}, cas.ErrCorrupt, "peer.key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.add(w.sign(1, "v1", w.release))
			opts := w.serveOptions()
			opts.Ready = func(Ready) error { t.Error("ready"); return errors.New("ready") }
			tt.spoil(w, &opts)
			err := Serve(t.Context(), opts)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
		})
	}
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peer.key")
	one, err := LoadIdentity(path)
	check(t, err)
	two, err := LoadIdentity(path)
	check(t, err)
	if !one.Equals(two) {
		t.Error("another key")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStatusReportsAnExpiredTimestamp(t *testing.T) {
	w := newWorld(t)
	check(t, os.Mkdir(w.path("store"), 0o755))
	s, err := ReadStatus(t.Context(), w.statusOptions())
	if err != nil || s.Head != "" {
		t.Errorf("before a release: %+v, %v", s, err)
	}
	added := w.add(w.sign(1, "v1", w.release))
	later := w.statusOptions()
	later.Now = func() time.Time { return time.Now().Add(50 * time.Hour) }
	s, err = ReadStatus(t.Context(), later)
	if err != nil || !errors.Is(s.Err(), manifest.ErrExpired) || !s.Expired || len(s.Releases) != 1 || s.Head != added.Head {
		t.Errorf("after two days: %+v, %v", s, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}
