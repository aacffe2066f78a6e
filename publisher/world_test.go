package publisher

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// A world is a repository that a daemon can serve.
type world struct{ *pubtest.World }

func newWorld(t *testing.T) *world { return &world{pubtest.New(t)} }

// A setClock is a clock that a test moves, and the log of a daemon that has it.
type setClock struct {
	*pubtest.Log
	start time.Time
	ahead atomic.Int64
}

func newClock() *setClock { return &setClock{Log: pubtest.NewLog(), start: time.Now()} }

func (c *setClock) now() time.Time       { return c.start.Add(c.up()) }
func (c *setClock) up() time.Duration    { return time.Duration(c.ahead.Load()) }
func (c *setClock) set(to time.Duration) { c.ahead.Store(int64(to)) }

func (w *world) serveOptions() ServeOptions {
	listen, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	pubtest.Check(w.T, err)
	return ServeOptions{
		Store: w.Path("store"), Repo: w.Repo(), Online: w.OnlineKey(), IPNS: w.IPNS, HTTP: "127.0.0.1:0",
		DaemonOptions: DaemonOptions{Network: Network{Listen: listen, DHT: DHTPrivate}, Log: pubtest.VerboseLog(w.T)},
	}
}

func (w *world) statusOptions() store.StatusOptions {
	return store.StatusOptions{Store: w.Path("store"), Repo: w.Repo()}
}

// serveFirst serves a first release over plain HTTP, without a DHT.
func (w *world) serveFirst() (Ready, *gateway.Client, *pubtest.Log) {
	w.T.Helper()
	w.Add(w.Sign(1, "v1", w.Release))
	opts, log := w.serveOptions(), pubtest.NewLog()
	opts.DHT, opts.Log = DHTOff, log.Logger()
	r, _ := w.serve(opts)
	return r, &gateway.Client{Base: r.HTTP[0]}, log
}

// serve runs a daemon until the test ends, or stop is called.
func (w *world) serve(opts ServeOptions) (r Ready, stop func()) {
	w.T.Helper()
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
			w.T.Errorf("serve: %v", err)
		}
	}
	w.T.Cleanup(stop)
	select {
	case r = <-ready:
	case err := <-done:
		stopped = true
		w.T.Fatalf("serve: %v", err)
	case <-time.After(pubtest.Patience):
		w.T.Fatal("not ready")
	}
	return r, stop
}

// monitored serves with a clock that the test moves.
func (w *world) monitored(c *setClock) (r Ready, stop func()) {
	w.T.Helper()
	opts := w.serveOptions()
	opts.DHT, opts.Metrics, opts.Log, opts.Now, opts.Uptime = DHTOff, "127.0.0.1:0", c.Logger(), c.now, c.up
	return w.serve(opts)
}

// touch makes a daemon read its repository again.
func (w *world) touch() { w.Write("repo/note.json", []byte(time.Now().String())) }

// moved is the log line of a pointer with this metadata folder.
func moved(folder string) string { return `msg="pointer moved" folder=` + folder + " " }

// resolve reads the pointer over a gateway and checks its record.
func resolve(t *testing.T, gw *gateway.Client, name string) (folder string, seq uint64) {
	t.Helper()
	rec, err := gw.IPNS(t.Context(), name)
	pubtest.Check(t, err)
	c, seq, err := p2p.CheckRecord(name, rec)
	pubtest.Check(t, err)
	return c.String(), seq
}

// artifact returns an artifact of the release in a metadata folder.
func (w *world) artifact(folder string, gw *gateway.Client, role string) manifest.Artifact {
	w.T.Helper()
	a, ok := w.Verify(pubtest.Folder{Source: gw, CID: folder}).Release().Artifact(role)
	if !ok {
		w.T.Fatalf("no %s", role)
	}
	return a
}

// eventually polls what has no event: metrics, and records in the DHT.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(pubtest.Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}
