package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// A packed fixture is a file in a store of packs, behind a gateway over TCP.
type packed struct {
	*fixture
	packs *pack.Store
	dir   string
}

func newPacked(t *testing.T) *packed {
	t.Helper()
	p := &packed{fixture: &fixture{data: castest.Bytes(3, 3_000_000)}, dir: t.TempDir()}
	w, err := pack.Open(p.dir, pack.Options{})
	ok(t, err)
	// blocks are stored once: these leaves of the file are elsewhere in the pack
	for _, at := range []int{40, 41, 700, 100, 5} {
		_, err := cas.AddFile(t.Context(), w.Put, bytes.NewReader(p.data[at*4096:(at+1)*4096]), "size-4096")
		ok(t, err)
	}
	p.file, err = cas.AddFile(t.Context(), w.Put, bytes.NewReader(p.data), "size-4096")
	ok(t, err)
	ok(t, w.Close())
	p.packs, err = pack.Open(p.dir, pack.Options{ReadOnly: true})
	ok(t, err)
	t.Cleanup(func() { p.packs.Close() })
	p.leaves, err = cas.Leaves(t.Context(), p.packs, p.file.CID, p.file.Size)
	ok(t, err)
	p.Server = httptest.NewServer(Handler(Options{Source: p.packs}))
	t.Cleanup(p.Close)
	return p
}

// serve starts another gateway and returns a client of it.
func (p *packed) serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &Client{Base: s.URL}
}

// overStream hides from a handler that the connection is TCP.
func overStream(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, nil)))
	})
}

func TestARunIsTheSameFromFilesAndMemory(t *testing.T) {
	p := newPacked(t)
	h := Handler(Options{Source: p.packs})
	memory := cas.NewMemory()
	_, err := cas.AddFile(t.Context(), memory.Put, bytes.NewReader(p.data), "size-4096")
	ok(t, err)
	ways := map[string]*Client{
		"file, TCP": {Base: p.URL}, "file, stream": p.serve(t, overStream(h)), "memory": p.serve(t, Handler(Options{Source: memory})),
	}
	for name, c := range ways {
		for range 2 { // the second time without a check
			for _, r := range [][2]int{{0, len(p.leaves)}, {0, 1}, {39, 43}, {100, 101}, {3, 7}, {680, len(p.leaves)}} {
				got := 0
				err := c.Run(t.Context(), p.file.CID, p.leaves[r[0]:r[1]], func(i int, leaf RunLeaf) error {
					l := p.leaves[r[0]+i]
					if !bytes.Equal(leaf.Data, p.data[l.Offset:l.Offset+l.Size]) {
						t.Fatalf("%s: leaf %d of %v differs", name, i, r)
					}
					got++
					return nil
				})
				if err != nil || got != r[1]-r[0] {
					t.Errorf("%s: %v: %d leaves and %v", name, r, got, err)
				}
			}
		}
	}
}

func TestARunHasAContentLength(t *testing.T) {
	p := newPacked(t)
	url := "/ipfs/" + p.file.CID.String() + "?format=car&dag-scope=entity&entity-bytes=20000:1999999"
	resp, body := p.do(t, "GET", url+"&nodes=n")
	if n := resp.Header.Get("Content-Length"); n != strconv.Itoa(len(body)) || len(body) < 1_980_000 {
		t.Errorf("length %q of %d bytes", n, len(body))
	}
	if resp, body := p.do(t, "GET", url); len(resp.TransferEncoding) == 0 || len(body) < 1_980_000 {
		t.Errorf("with nodes: %v, %d bytes", resp.TransferEncoding, len(body))
	}
}

// damage flips a byte of a leaf in its pack.
func (p *packed) damage(t *testing.T, i int) {
	t.Helper()
	f, at, err := p.packs.OpenBlock(t.Context(), p.leaves[i].CID)
	ok(t, err)
	defer f.Close()
	name := filepath.Join(p.dir, filepath.Base(f.Name()))
	w, err := os.OpenFile(name, os.O_RDWR, 0)
	ok(t, err)
	defer w.Close()
	b := make([]byte, 1)
	_, err = w.ReadAt(b, at+1000)
	ok(t, err)
	b[0] ^= 1
	_, err = w.WriteAt(b, at+1000)
	ok(t, err)
}

func TestARunEndsBeforeADamagedLeaf(t *testing.T) {
	p := newPacked(t)
	p.damage(t, 200)
	for name, c := range map[string]*Client{"TCP": {Base: p.URL}, "stream": p.serve(t, overStream(Handler(Options{Source: p.packs})))} {
		got := 0
		err := c.Run(t.Context(), p.file.CID, p.leaves[150:300], func(int, RunLeaf) error { got++; return nil })
		if got != 50 || !errors.Is(err, cas.ErrUnreachable) || errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %d leaves and %v", name, got, err)
		}
		if _, err := cas.Get(t.Context(), c, p.leaves[200].CID); !errors.Is(err, cas.ErrUnreachable) || errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: the leaf alone: %v", name, err)
		}
		at := p.leaves[200].Offset
		resp, err := http.Get(fmt.Sprintf("%s/ipfs/%s?format=car&entity-bytes=%d:%d&nodes=n", c.Base, p.file.CID, at, at))
		ok(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: a run of the leaf alone: %s", name, resp.Status)
		}
	}
}

func TestRunsTakeTurnsAtASlot(t *testing.T) {
	p := newPacked(t)
	data := castest.Bytes(4, 14<<20)
	w, err := pack.Open(p.dir, pack.Options{})
	ok(t, err)
	big, err := cas.AddFile(t.Context(), w.Put, bytes.NewReader(data), "size-65536")
	ok(t, err)
	ok(t, w.Close())
	leaves, err := cas.Leaves(t.Context(), p.packs, big.CID, big.Size)
	ok(t, err)
	c := p.serve(t, Handler(Options{Source: p.packs, UploadSlots: 1}))
	var both errgroup.Group
	for range 2 {
		both.Go(func() error {
			return c.Run(t.Context(), big.CID, leaves, func(i int, leaf RunLeaf) error {
				if l := leaves[i]; !bytes.Equal(leaf.Data, data[l.Offset:l.Offset+l.Size]) {
					return fmt.Errorf("leaf %d differs", i)
				}
				return nil
			})
		})
	}
	ok(t, both.Wait())
}

// A client that reads 64 KiB in time gets a leaf of 1 MiB.
func TestASlowClientGetsALargeLeafFromAFile(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second
	p := newPacked(t)
	w, err := pack.Open(p.dir, pack.Options{})
	ok(t, err)
	big, err := cas.AddFile(t.Context(), w.Put, bytes.NewReader(castest.Bytes(5, 1<<20+1)), "size-1048576")
	ok(t, err)
	ok(t, w.Close())
	s := httptest.NewUnstartedServer(withGrace(Handler(Options{Source: p.packs}), grace))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			c.(*net.TCPConn).SetWriteBuffer(16 << 10)
		}
	}
	s.Start()
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	ok(t, err)
	defer conn.Close()
	ok(t, conn.(*net.TCPConn).SetReadBuffer(16<<10))
	_, err = fmt.Fprintf(conn, "GET /ipfs/%s?format=car&entity-bytes=0:*&nodes=n HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", big.CID)
	ok(t, err)
	for n := int64(0); ; time.Sleep(grace / 5) {
		got, err := io.CopyN(io.Discard, conn, 64<<10)
		if n += got; err != nil {
			if n < big.Size {
				t.Errorf("%d of %d bytes, then %v", n, big.Size, err)
			}
			return
		}
	}
}

// A leaf that is damaged after it was sent is found when its check is repeated.
func TestALeafOfAFileIsCheckedAgain(t *testing.T) {
	p := newPacked(t)
	synctest.Test(t, func(t *testing.T) { // fails if a handler leaves a goroutine
		c := wired(t, Handler(Options{Source: p.packs}))
		run := func() error {
			return c.Run(t.Context(), p.file.CID, p.leaves[150:300], func(int, RunLeaf) error { return nil })
		}
		ok(t, run())
		p.damage(t, 200)
		time.Sleep(verifiedFor - time.Second)
		if err := run(); !errors.Is(err, cas.ErrCorrupt) { // found by the client, not by the handler
			t.Errorf("before verifiedFor: %v", err)
		}
		time.Sleep(time.Second)
		if err := run(); !errors.Is(err, cas.ErrUnreachable) || errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("after verifiedFor: %v", err)
		}
	})
}

func TestRetainedLeavesOutliveTheRun(t *testing.T) {
	p := newPacked(t)
	c := &Client{Base: p.URL}
	held := map[int]RunLeaf{}
	ok(t, c.Run(t.Context(), p.file.CID, p.leaves, func(i int, leaf RunLeaf) error {
		if i%3 == 0 && leaf.Retain() {
			held[i] = leaf
		}
		return nil
	}))
	ok(t, c.Run(t.Context(), p.file.CID, p.leaves, func(int, RunLeaf) error { return nil }))
	if len(held) < 100 {
		t.Errorf("%d leaves were retained", len(held))
	}
	for i, leaf := range held {
		l := p.leaves[i]
		if !bytes.Equal(leaf.Data, p.data[l.Offset:l.Offset+l.Size]) {
			t.Fatalf("leaf %d changed", i)
		}
		leaf.Release()
	}
	if n := retainedBuffers.Load(); n != 0 {
		t.Errorf("%d buffers are still counted", n)
	}
}

func TestRetainedBuffersAreBounded(t *testing.T) {
	var all []*sharedBuffer
	for range 2 * maxRetained {
		b := newSharedBuffer()
		all = append(all, b)
		RunLeaf{buf: b}.Retain()
	}
	if n := retainedBuffers.Load(); n != maxRetained {
		t.Errorf("%d buffers are retained", n)
	}
	for _, b := range all {
		if b.retained {
			b.release()
		}
		b.release()
	}
	if n := retainedBuffers.Load(); n != 0 || (RunLeaf{Data: []byte("alone")}).Retain() {
		t.Errorf("%d buffers are kept, and what is in none", n)
	}
}

// lacking is a store without one block.
type lacking struct {
	cas.Source
	gone cid.Cid
}

func (l lacking) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == l.gone {
		return nil, fs.ErrNotExist
	}
	return l.Source.Block(ctx, c)
}

func TestALeafThatIsMissingIs404AndLaterTheEnd(t *testing.T) {
	f := newFixture(t)
	s := httptest.NewServer(Handler(Options{Source: lacking{f.store, f.leaves[100].CID}}))
	defer s.Close()
	c := &Client{Base: s.URL}
	run := func(first int) (got int, err error) {
		err = c.Run(t.Context(), f.file.CID, f.leaves[first:], func(int, RunLeaf) error { got++; return nil })
		return got, err
	}
	if got, err := run(0); got == 0 || got > 100 || !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("after many: %d leaves and %v", got, err)
	}
	for _, first := range []int{99, 100} {
		if got, err := run(first); got != 0 || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("from leaf %d: %d leaves and %v", first, got, err)
		}
	}
}
