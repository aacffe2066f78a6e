package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

const (
	kernelPath   = "/tuf/targets/stable/x86_64/c0ffee.kernel"
	kernelSHA256 = "c0ffee"
)

// newTUF is a gateway whose only target is the file of the fixture.
func newTUF(t *testing.T, change func(o *Options)) *fixture {
	t.Helper()
	f := newFixture(t)
	o := Options{
		Source: f.store,
		Metadata: func(name string) ([]byte, error) {
			return []byte(`{"signed":1}`), missingUnless(name == "1.root.json")
		},
		Target: func(path string) (File, error) {
			return File{f.file.CID, f.file.Size, kernelSHA256}, missingUnless(path == "stable/x86_64/c0ffee.kernel")
		},
	}
	change(&o)
	server := httptest.NewServer(Handler(o))
	t.Cleanup(server.Close)
	return &fixture{Server: server, store: f.store, data: f.data, file: f.file, leaves: f.leaves}
}

func TestATargetIsAFileWithLengthEtagAndRanges(t *testing.T) {
	f := newTUF(t, func(*Options) {})
	for _, tt := range []struct {
		name, method string
		headers      []string
		status       int
		want         []byte
		length       int64
	}{
		{"whole", "GET", nil, 200, f.data, f.file.Size},
		{"HEAD", "HEAD", nil, 200, nil, f.file.Size},
		{"a range", "GET", []string{"Range", "bytes=5000-12000"}, 206, f.data[5000:12001], 7001},
		{"the end", "GET", []string{"Range", "bytes=-10"}, 206, f.data[len(f.data)-10:], 10},
		{"a range of the same file", "GET", []string{"Range", "bytes=9-", "If-Range", `"c0ffee"`}, 206, f.data[9:], f.file.Size - 9},
		{"a range of another file", "GET", []string{"Range", "bytes=9-", "If-Range", `"other"`}, 200, f.data, f.file.Size},
		{"two ranges", "GET", []string{"Range", "bytes=0-1,5-6"}, 200, f.data, f.file.Size},
		{"unchanged", "GET", []string{"If-None-Match", `"c0ffee"`}, 304, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := f.do(t, tt.method, kernelPath, tt.headers...)
			if resp.StatusCode != tt.status || !bytes.Equal(body, tt.want) || tt.length > 0 && resp.ContentLength != tt.length {
				t.Errorf("%s, %d bytes, length %d", resp.Status, len(body), resp.ContentLength)
			}
			if resp.Header.Get("Etag") != `"c0ffee"` || resp.Header.Get("Cache-Control") != immutable {
				t.Errorf("%v", resp.Header)
			}
		})
	}
	resp, _ := f.do(t, "GET", kernelPath, "Range", "bytes=2000000-")
	if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || resp.Header.Get("Content-Range") != "bytes */1000000" || resp.Header.Get("Cache-Control") == immutable {
		t.Errorf("behind the end: %s, %v", resp.Status, resp.Header)
	}
}

func TestMetadataAreRevalidated(t *testing.T) {
	f := newTUF(t, func(*Options) {})
	resp, body := f.do(t, "GET", "/tuf/metadata/1.root.json")
	if resp.StatusCode != 200 || string(body) != `{"signed":1}` || resp.Header.Get("Cache-Control") != revalidate || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %s, %v", resp.Status, body, resp.Header)
	}
	again, _ := f.do(t, "GET", "/tuf/metadata/1.root.json", "If-None-Match", resp.Header.Get("Etag"))
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("unchanged: %s", again.Status)
	}
}

// A cache must not keep a 404: the next root may be there tomorrow.
func TestUnknownMetadataAndTargetsAreNotFound(t *testing.T) {
	f, bare := newTUF(t, func(*Options) {}), newFixture(t)
	for _, path := range []string{"/tuf/metadata/2.root.json", "/tuf/metadata/", "/tuf/targets/stable/x86_64/kernel", "/tuf/targets/", "/tuf/"} {
		for _, server := range []*fixture{f, bare} {
			if resp, _ := server.do(t, "GET", path); resp.StatusCode != 404 || resp.Header.Get("Cache-Control") == immutable {
				t.Errorf("%s: %s, %v", path, resp.Status, resp.Header)
			}
		}
	}
	if resp, _ := f.do(t, "POST", kernelPath); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

// A wrong block is never sent: before the first byte the answer is an error, later it ends early.
func TestATargetEndsBeforeADamagedBlock(t *testing.T) {
	for _, tt := range []struct {
		name, span string
		leaf       int // that is damaged; -1: it is missing
		fault      error
		status     int
		sent       int64 // bytes at most
	}{
		{"the first leaf", "", 0, cas.ErrCorrupt, 500, 0},
		{"the first leaf of a range", "bytes=8192-", 2, cas.ErrCorrupt, 500, 0},
		{"a later leaf", "", 100, cas.ErrCorrupt, 200, 100 * 4096},
		{"a missing leaf", "", 0, fs.ErrNotExist, 404, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen error
			f := newTUF(t, func(o *Options) {
				store := o.Source
				o.Fault = func(err error) { seen = err }
				o.Source = faulty(func(ctx context.Context, c cid.Cid) ([]byte, error) {
					data, err := store.Block(ctx, c)
					if err == nil && bytes.Equal(data, castest.Bytes(1, 1_000_000)[tt.leaf*4096:min(tt.leaf*4096+4096, 1_000_000)]) {
						if tt.fault == cas.ErrCorrupt {
							return append([]byte{data[0] ^ 1}, data[1:]...), nil
						}
						return nil, cas.NotFound(c)
					}
					return data, err
				})
			})
			req, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+kernelPath, nil)
			ok(t, err)
			if tt.span != "" {
				req.Header.Set("Range", tt.span)
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			ok(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			switch {
			case resp.StatusCode != tt.status:
				t.Errorf("%s", resp.Status)
			case tt.status != 200 && (resp.Header.Get("Etag") != "" || resp.Header.Get("Content-Range") != "" || resp.Header.Get("Cache-Control") != noStore):
				t.Errorf("%v", resp.Header)
			case tt.status == 200 && (err == nil || int64(len(body)) > tt.sent || !bytes.HasPrefix(f.data, body)):
				t.Errorf("%d bytes, %v", len(body), err)
			case tt.fault == cas.ErrCorrupt && !errors.Is(seen, cas.ErrCorrupt):
				t.Errorf("the fault is %v", seen)
			}
		})
	}
}

type faulty func(context.Context, cid.Cid) ([]byte, error)

func (f faulty) Block(ctx context.Context, c cid.Cid) ([]byte, error) { return f(ctx, c) }

// A large target gives its slot to a waiting request after 4 MiB and continues with its next turn. It
// waits for that longer than a CAR, and a request that gets no turn is answered 503.
func TestATargetTakesTurns(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 12<<20)), "size-1048576")
	ok(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	ok(t, err)
	synctest.Test(t, func(t *testing.T) {
		g := gate{store, leaves[2].CID, make(chan struct{}), make(chan struct{})}
		target := func(string) (File, error) { return File{file.CID, file.Size, "sum"}, nil }
		h := &handler{Options: Options{Source: g, Target: target}, slots: newSlots(1, time.Second), cache: newCache()}
		c := wired(t, h.get(h.target))
		get := func() (status, size int) {
			resp, err := c.HTTP.Get(c.Base + targetsPath + "a")
			if err != nil {
				t.Error(err)
				return 0, 0
			}
			defer resp.Body.Close()
			n, _ := io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, int(n)
		}
		h.slots.tryAcquire("other")
		begun := time.Now()
		if status, _ := get(); status != http.StatusServiceUnavailable || time.Since(begun) != targetTurnWaits*time.Second {
			t.Errorf("without a slot: status %d after %s", status, time.Since(begun))
		}
		h.slots.release("other")

		whole := make(chan int)
		go func() {
			_, size := get()
			whole <- size
		}()
		<-g.waiting // the target has the only slot
		next := make(chan error)
		go func() { next <- h.slots.acquireWithin(t.Context(), "other", time.Hour) }()
		synctest.Wait()
		close(g.opened)
		if err := <-next; err != nil {
			t.Error(err)
		}
		time.Sleep((targetTurnWaits - 1) * time.Second)
		h.slots.release("other")
		if n := <-whole; n != 12<<20 {
			t.Errorf("the target has %d bytes", n)
		}
		synctest.Wait()
		if n := len(h.slots.clients); n > 0 {
			t.Errorf("%d clients are left", n)
		}
	})
}
