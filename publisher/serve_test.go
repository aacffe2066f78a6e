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
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

func TestServeAnswersOverHTTPStreamsAndTheDHT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	added := w.Add(w.Sign(1, "v1", w.Release))
	r, stop := w.serve(w.serveOptions())
	if r.Pointer != added.Pointer || len(r.HTTP) != 1 || len(r.Listen) != 1 {
		t.Fatalf("ready says %+v", r)
	}
	self, err := p2p.ParsePeers(r.Listen)
	pubtest.Check(t, err)
	root, err := manifest.ParseRoot(w.Read("repo/1.root.json"))
	pubtest.Check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTClient, Prefix: root.Discovery().DHTPrefix, Bootstrap: self})
	pubtest.Check(t, err)
	defer machine.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rec, err := machine.GetIPNS(ctx, r.IPNS)
	pubtest.Check(t, err)
	folder, seq, err := p2p.CheckRecord(r.IPNS, rec)
	pubtest.Check(t, err)
	if folder.String() != r.Pointer || seq != 1 {
		t.Errorf("the DHT says %s, %d", folder, seq)
	}
	provider, ok := <-machine.FindProviders(ctx, folder)
	if !ok {
		t.Fatal("no provider")
	}
	streams, err := machine.Gateway(ctx, provider)
	pubtest.Check(t, err)
	if got := machine.HTTPAddrs(provider.ID); fmt.Sprint(got) != fmt.Sprint(r.HTTP) {
		t.Errorf("identify says %q, ready %q", got, r.HTTP)
	}
	for name, gw := range map[string]*gateway.Client{"streams": streams, "HTTP": {Base: r.HTTP[0]}} {
		folder, _ := resolve(t, gw, r.IPNS)
		v := w.Verify(pubtest.Folder{Source: gw, CID: folder})
		for _, a := range v.Release().Artifacts {
			var got bytes.Buffer
			pubtest.Check(t, cas.Copy(t.Context(), &got, gw, a.CID, a.Length))
			if !bytes.Equal(got.Bytes(), w.Read("artifacts/"+a.Role)) {
				t.Errorf("%s: %s differs", name, a.Role)
			}
		}
	}
	stop()
	if _, err := (&gateway.Client{Base: r.HTTP[0]}).IPNS(t.Context(), r.IPNS); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestServeLoadsANewReleaseAndKeepsTheOldOneReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	w.Write("artifacts/kernel", bytes.Repeat([]byte("new kernel "), 10_000))
	second := w.Add(w.Sign(2, "v2", w.Release))
	log.Wait(t, 1, moved(second.Pointer))
	if folder, seq := resolve(t, gw, r.IPNS); folder != second.Pointer || seq != 2 {
		t.Errorf("the record names %s, sequence %d", folder, seq)
	}
	if got := w.Verify(pubtest.Folder{Source: gw, CID: second.Pointer}).Release().Version; got != "v2" {
		t.Errorf("got %q", got)
	}
	if got := w.Verify(pubtest.Folder{Source: gw, CID: r.Pointer}).Release().Version; got != "v1" {
		t.Errorf("the old folder gives %q", got)
	}
	kernel, _ := w.Verify(pubtest.Folder{Source: gw, CID: second.Pointer}).Release().Artifact("kernel")
	var got bytes.Buffer
	pubtest.Check(t, cas.Copy(t.Context(), &got, gw, kernel.CID, kernel.Length))
}

func TestServeSignsTheTimestampAgainBeforeItExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const life = 8 * time.Second // so that the daemon reads the repository every second
	c := newClock()
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Online.Expiry, opts.Now = life, c.now // a clock that runs would be ahead of the daemon's
	_, err := ingest.Add(t.Context(), opts)
	pubtest.Check(t, err)
	serve := w.serveOptions()
	serve.DHT, serve.Online.Expiry, serve.Log, serve.Now, serve.Uptime = DHTOff, life, c.Logger(), c.now, c.up
	r, _ := w.serve(serve)
	gw := &gateway.Client{Base: r.HTTP[0]}
	for n := 1; n <= 3; n++ {
		folder, seq := resolve(t, gw, r.IPNS)
		if seq != uint64(n) {
			t.Fatalf("sequence %d, want %d", seq, n)
		}
		c.set(time.Duration(n) * (life/2 + time.Second))
		w.VerifyAt(pubtest.Folder{Source: gw, CID: folder}, c.now()) // it has not expired yet
		c.Wait(t, n+1, `msg="pointer moved"`)
	}
}

func TestServeRenewsATimestampThatExpiredWhileItWasOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Signing = time.Now().Add(-48 * time.Hour)
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Now = func() time.Time { return w.Signing }
	_, err := ingest.Add(t.Context(), opts)
	pubtest.Check(t, err)
	serve := w.serveOptions()
	serve.DHT = DHTOff
	r, _ := w.serve(serve)
	w.Verify(pubtest.Folder{Source: &gateway.Client{Base: r.HTTP[0]}, CID: r.Pointer})
}

// On a read-only disk a daemon serves what is signed.
func TestServeStartsWhereItCannotSignAgain(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "1.0", w.Release))
	pubtest.Check(t, os.RemoveAll(filepath.Join(w.Repo(), ".lock")))
	pubtest.Check(t, os.Mkdir(filepath.Join(w.Repo(), ".lock"), 0o755)) // cannot be opened, not even by root
	opts := w.serveOptions()
	opts.Online.Expiry = 90 * 24 * time.Hour // so that the one there is old
	_, stop := w.serve(opts)
	stop()
	opts.Now = func() time.Time { return time.Now().Add(100 * 24 * time.Hour) }
	w.serve(opts) // machines refuse it, as TestMonitoringIsRedWhileMachinesRefuse checks
}

func TestServeKeepsItsPointerWhenTheRepositoryIsDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	good := w.Read("repo/timestamp.json")
	for i, bad := range [][]byte{good[:len(good)/2], nil, bytes.Replace(good, []byte("sha256"), []byte("sha257"), 1)} {
		w.Write("repo/timestamp.json", bad)
		log.Wait(t, i+1, "level=WARN", "timestamp.json")
		if folder, _ := resolve(t, gw, r.IPNS); folder != r.Pointer {
			t.Fatalf("the pointer moved to %s", folder)
		}
	}
	w.Write("repo/timestamp.json", good)
	w.Verify(pubtest.Folder{Source: gw, CID: r.Pointer})
}

func TestServeGivesAChangedFolderANewSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	root, err := manifest.NewRoot(manifest.RootSpec{
		Version: 2, Root: pubtest.Publics(w.Root), Threshold: 1, Online: pubtest.Publics(w.Online),
		Discovery: manifest.Discovery{IPNS: []string{r.IPNS}}, Expires: time.Now().Add(time.Hour),
	})
	pubtest.Check(t, err)
	w.Write("repo/2.root.json", pubtest.Seal(t, manifest.KindRoot, root, w.Root))
	log.Wait(t, 2, `msg="pointer moved"`)
	if folder, seq := resolve(t, gw, r.IPNS); seq != 2 || folder == r.Pointer {
		t.Errorf("the record names %s, sequence %d", folder, seq)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	pubtest.Check(t, err)
	defer taken.Close()
	other := pubtest.NewKey(t)
	for _, tt := range []struct {
		name  string
		spoil func(w *world, o *ServeOptions)
		want  error // nil: any
		says  string
	}{
		{"a repository without a release", func(w *world, _ *ServeOptions) {
			os.Remove(w.Path("repo/timestamp.json"))
		}, fs.ErrNotExist, "no release yet: file does not exist; add one with phase-publish add"},
		{"a missing store", func(w *world, o *ServeOptions) { o.Store = w.Path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file as store", func(w *world, o *ServeOptions) { o.Store = w.Path("artifacts/kernel") }, fs.ErrInvalid, "is a file"},
		{"a store without the release", func(w *world, o *ServeOptions) {
			o.Store = filepath.Join(w.Dir, "empty")
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
			o.Online = repo.OnlineKey{Signer: pubtest.Signer(t, other), Public: pubtest.Public(other)}
		}, manifest.ErrSignature, "--online-key"},
		{"an IPNS key that root.json does not name", func(_ *world, o *ServeOptions) { o.IPNS = other }, fs.ErrInvalid, "--ipns-key"},
		{"a garbled identity", func(w *world, o *ServeOptions) {
			w.Write("peer.key", []byte("nonsense"))
			o.Identity = w.Path("peer.key")
		}, cas.ErrCorrupt, "peer.key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.Add(w.Sign(1, "v1", w.Release))
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
