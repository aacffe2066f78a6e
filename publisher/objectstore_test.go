package publisher

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// inBucket publishes release v1 in an object store behind a proxy.
func (w *world) inBucket() (proxy *s3test.Proxy, address string) {
	w.T.Helper()
	pubtest.Check(w.T, s3test.Setenv())
	s, err := s3test.Start(w.T.TempDir())
	pubtest.Check(w.T, err)
	w.T.Cleanup(func() { s.Stop() })
	proxy, err = s3test.NewProxy(s)
	pubtest.Check(w.T, err)
	w.T.Cleanup(proxy.Close)
	address = s3test.Address(proxy.URL, "fleet")
	w.addTo(address, w.Sign(1, "v1", w.Release))
	return proxy, address
}

func (w *world) addTo(address string, release []byte) {
	w.T.Helper()
	opts := w.AddOptions(release)
	opts.Store = address
	_, err := ingest.Add(w.T.Context(), opts)
	pubtest.Check(w.T, err)
}

func (w *world) replicaOptions(address string) ServeOptions {
	opts := w.serveOptions()
	opts.Store, opts.Replica, opts.DHT, opts.Repo, opts.IPNS, opts.Online = address, true, DHTOff, "", nil, repo.OnlineKey{}
	return opts
}

// unsigned makes the object store refuse every request at once.
func unsigned(r *http.Request) s3test.Fault {
	r.Header.Del("Authorization")
	return s3test.None
}

// freeAddress returns an address that no listener has.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	pubtest.Check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func status(t *testing.T, url string) (code int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	pubtest.Check(t, err)
	return resp.StatusCode, string(data)
}

func TestServeWaitsForAnObjectStoreThatIsDown(t *testing.T) {
	t.Parallel()
	for _, replica := range []bool{false, true} {
		t.Run(map[bool]string{false: "publisher", true: "replica"}[replica], func(t *testing.T) {
			t.Parallel()
			w, log := newWorld(t), pubtest.NewLog()
			proxy, address := w.inBucket()
			proxy.Set(func(*http.Request) s3test.Fault { return s3test.Status503 })
			opts := w.replicaOptions(address)
			if !replica {
				opts = w.serveOptions()
				opts.Store, opts.DHT = address, DHTOff
			}
			opts.HTTP, opts.Metrics, opts.Log = freeAddress(t), freeAddress(t), log.Logger()
			ready, done := make(chan Ready, 1), make(chan error, 1)
			opts.Ready = func(r Ready) error { ready <- r; return nil }
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { done <- Serve(ctx, opts) }()
			eventually(t, "an answer", func() bool {
				code, _ := status(t, "http://"+opts.HTTP+"/ipfs/"+emptyCID)
				return code == http.StatusServiceUnavailable
			})
			log.Wait(t, 1, `msg="waiting for the object store"`, "check the object store at "+proxy.URL)
			if code, body := status(t, "http://"+opts.Metrics+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "check the object store at") {
				t.Errorf("/healthz: %d %s", code, body)
			}
			select {
			case err := <-done:
				t.Fatal("it ended: ", err)
			default:
			}
			proxy.Set(func(*http.Request) s3test.Fault { return s3test.None })
			select {
			case <-ready:
			case err := <-done:
				t.Fatal("it ended: ", err)
			case <-time.After(pubtest.Patience):
				t.Fatal("not ready")
			}
			p, err := pubtest.ReadPointer(t.Context(), w.Repo())
			pubtest.Check(t, err)
			if code, _ := status(t, "http://"+opts.HTTP+"/ipfs/"+p.Folder.String()+"?format=raw"); code != http.StatusOK {
				t.Errorf("the metadata folder: %d", code)
			}
			cancel()
			pubtest.Check(t, <-done)
		})
	}
}

const emptyCID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku?format=raw"

func TestServeEndsIfTheObjectStoreRefusesItsKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, address := w.inBucket()
	proxy.Set(unsigned)
	if err := Serve(t.Context(), w.replicaOptions(address)); !errors.Is(err, fs.ErrPermission) || errors.Is(err, cas.ErrUnreachable) {
		t.Error(err)
	}
}

func TestServeThatWaitsCanBeStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, address := w.inBucket()
	proxy.Set(func(*http.Request) s3test.Fault { return s3test.Status503 })
	opts, done := w.replicaOptions(address), make(chan error, 1)
	opts.HTTP = freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- Serve(ctx, opts) }()
	eventually(t, "an answer", func() bool {
		code, _ := status(t, "http://"+opts.HTTP)
		return code == http.StatusServiceUnavailable
	})
	cancel()
	pubtest.Check(t, <-done)
}

func TestATimestampIsSignedAgainWhileTheObjectStoreIsDown(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t), newClock()
	proxy, address := w.inBucket()
	opts := w.serveOptions()
	opts.Store, opts.DHT, opts.Log, opts.Now, opts.Uptime = address, DHTOff, clock.Logger(), clock.now, clock.up
	r, _ := w.serve(opts)
	proxy.Set(unsigned)
	clock.set(20 * time.Hour)
	w.touch()
	clock.Wait(t, 1, `msg="pointer moved"`, "timestamp=2 ")
	if _, seq := resolve(t, &gateway.Client{Base: r.HTTP[0]}, r.IPNS); seq != 2 {
		t.Errorf("sequence %d", seq)
	}
}

// A root may list the names of several keys, and the key of the first may be gone.
func TestAReplicaServesTheNameThatHasTheNewestRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone := (&pubtest.World{T: t, IPNS: pubtest.NewKey(t)}).Name()
	w.Names = []string{gone, w.Name()}
	w.NextRoot(2, w.Root)
	_, address := w.inBucket()
	r, _ := w.serve(w.replicaOptions(address)) // no publisher has signed a record yet
	gw := &gateway.Client{Base: r.HTTP[0]}
	p, err := pubtest.ReadPointer(t.Context(), w.Repo())
	pubtest.Check(t, err)
	record, err := p2p.NewRecord(w.IPNS, p.Folder, uint64(p.Timestamp), time.Now().Add(time.Hour), time.Minute)
	pubtest.Check(t, err)
	pubtest.Check(t, store.PutMetadata(t.Context(), address, p, map[string][]byte{w.Name(): record}))
	eventually(t, "the record", func() bool { _, err := gw.IPNS(t.Context(), w.Name()); return err == nil })
	second, _ := w.serve(w.replicaOptions(address))
	if second.IPNS != w.Name() {
		t.Errorf("name %s, want %s and not %s", second.IPNS, w.Name(), gone)
	}
}
