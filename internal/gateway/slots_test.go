package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestNoClientTakesEverySlot(t *testing.T) {
	s := newSlots(4, time.Minute)
	for range 2 {
		ok(t, s.acquire(t.Context(), "greedy"))
	}
	if s.tryAcquire("greedy") {
		t.Error("a client holds more than half")
	}
	for _, key := range []string{"a", "b"} {
		if !s.tryAcquire(key) {
			t.Errorf("%s finds no slot", key)
		}
	}
	if s.tryAcquire("c") {
		t.Error("there are more than four slots")
	}
}

// A client with many requests waits for one with a single later request.
func TestAFreeSlotGoesToTheClientThatHoldsTheFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2, time.Minute)
		ok(t, s.acquire(t.Context(), "greedy"))
		ok(t, s.acquire(t.Context(), "other"))
		order := make(chan string, 3)
		for _, key := range []string{"greedy", "greedy", "late"} {
			go func() {
				if s.acquire(t.Context(), key) == nil {
					order <- key
				}
			}()
			synctest.Wait() // it is in the queue
		}
		s.release("other")
		if key := <-order; key != "late" {
			t.Errorf("%s came first", key)
		}
		s.release("greedy")
		if key := <-order; key != "greedy" {
			t.Errorf("%s came second", key)
		}
	})
}

func TestAWaitForASlotIsBounded(t *testing.T) {
	s := newSlots(1, time.Millisecond)
	ok(t, s.acquire(t.Context(), "a"))
	if err := s.acquire(t.Context(), "b"); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.wait = time.Minute
	if err := s.acquire(gone, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.release("a")
	if s.used != 0 || s.waiting != 0 || len(s.clients) != 0 {
		t.Errorf("left behind: %+v", s)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	s := newSlots(1, time.Minute)
	ok(t, s.acquire(t.Context(), "a"))
	for range slotQueue {
		if s.enqueue("b") == nil {
			t.Fatal("the queue is full too early")
		}
	}
	if s.enqueue("b") != nil {
		t.Error("the queue is not bounded")
	}
	if s.enqueue("c") == nil {
		t.Error("one client fills the queue of another")
	}
	if s.enqueue("c") != nil {
		t.Error("the queue is not bounded for other clients")
	}
}

// A gate is a store in which reads of one block wait, so that an upload takes long.
type gate struct {
	cas.Source
	block   cid.Cid
	waiting chan struct{} // closed when a read waits
	opened  chan struct{}
}

func (g gate) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == g.block {
		close(g.waiting)
		select {
		case <-g.opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Source.Block(ctx, c)
}

// While the only slot is taken, a leaf gets 503, and metadata, nodes, records and bitmaps are served.
func TestABusyPublisherServesSmallAnswers(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 100<<10)), "size-32768")
	ok(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	ok(t, err)
	small, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader([]byte("{}")), "size-32768")
	ok(t, err)
	g := gate{store, leaves[0].CID, make(chan struct{}), make(chan struct{})}
	srv := httptest.NewServer(Handler(Options{
		Source: g, UploadSlots: 1,
		IPNS: func(context.Context, string) ([]byte, error) { return []byte("record"), nil },
		Have: func(cid.Cid) ([]byte, string, error) { return []byte{0xf0}, "v1-4", nil },
	}))
	t.Cleanup(srv.Close)
	f := &fixture{Server: srv}

	// the CAR holds the slot until the gate opens
	car := make(chan int)
	go func() {
		_, body := f.do(t, http.MethodGet, "/ipfs/"+file.CID.String()+"?format=car")
		car <- len(body)
	}()
	<-g.waiting

	busy, _ := f.do(t, http.MethodGet, "/ipfs/"+leaves[1].CID.String()+"?format=raw")
	if busy.StatusCode != http.StatusServiceUnavailable || busy.Header.Get("Retry-After") != "1" {
		t.Errorf("a leaf got %s, Retry-After %q", busy.Status, busy.Header.Get("Retry-After"))
	}
	for _, path := range []string{"/ipfs/" + small.CID.String() + "?format=raw", "/ipfs/" + file.CID.String() + "?format=raw", "/ipns/" + name + "?format=ipns-record", "/have/" + file.CID.String()} {
		if resp, _ := f.do(t, http.MethodGet, path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s got %s", path, resp.Status)
		}
	}
	close(g.opened)
	if n := <-car; n < 100<<10 {
		t.Errorf("the CAR has %d bytes", n)
	}
	if resp, _ := f.do(t, http.MethodGet, "/ipfs/"+leaves[1].CID.String()+"?format=raw"); resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards a leaf got %s", resp.Status)
	}
}

// A CAR gives its slot to a waiting request and continues with its next turn.
func TestACARTakesTurns(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 12<<20)), "size-1048576")
	ok(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	ok(t, err)
	synctest.Test(t, func(t *testing.T) {
		early := gate{store, leaves[2].CID, make(chan struct{}), make(chan struct{})}
		late := gate{early, leaves[9].CID, make(chan struct{}), make(chan struct{})}
		h := &handler{Options: Options{Source: late}, slots: newSlots(1, 20*time.Second), cache: newCache()}
		c := wired(t, h.get(h.ipfs))
		get := func(path string) (status, size int) {
			resp, err := c.HTTP.Get(c.Base + path)
			if err != nil {
				t.Error(err)
				return 0, 0
			}
			defer resp.Body.Close()
			n, _ := io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, int(n)
		}
		car := make(chan int)
		go func() {
			_, size := get("/ipfs/" + file.CID.String() + "?format=car")
			car <- size
		}()
		<-early.waiting // the CAR has the only slot
		leaf := make(chan int)
		go func() {
			status, _ := get("/ipfs/" + leaves[1].CID.String() + "?format=raw")
			leaf <- status
		}()
		synctest.Wait() // the leaf is in the queue
		close(early.opened)
		if status := <-leaf; status != http.StatusOK { // the CAR has not ended: the gate holds its tenth leaf
			t.Errorf("the leaf got %d", status)
		}
		close(late.opened)
		if n := <-car; n < 12<<20 {
			t.Errorf("the CAR has %d bytes", n)
		}
		synctest.Wait()
		if n := len(h.slots.clients); n > 0 {
			t.Errorf("%d clients are left", n)
		}
	})
}

// After a turn that did not come, a CAR must not release a slot that it does not hold.
func TestACARWithoutANextTurnReleasesNoSlot(t *testing.T) {
	turn := turn{slots: newSlots(1, time.Millisecond), key: "car"}
	ok(t, turn.begin(t.Context()))
	if turn.slots.enqueue("other") == nil {
		t.Fatal("the queue is full")
	}
	if err := turn.next(t.Context()); !errors.Is(err, errBusy) {
		t.Fatalf("got %v", err)
	}
	turn.end()
	if turn.slots.used != 1 || turn.slots.clients["other"].held != 1 {
		t.Errorf("%d are used", turn.slots.used)
	}
}

func TestHaveIsABitmapWithAVersion(t *testing.T) {
	root := cas.Sum(cid.DagProtobuf, []byte("an artifact"))
	bits, version := []byte{0b10100000, 0b1}, "n0nce-3"
	srv := httptest.NewServer(Handler(Options{Source: cas.NewMemory(), Have: func(c cid.Cid) ([]byte, string, error) {
		if c != root {
			return nil, "", cas.NotFound(c)
		}
		return bits, version, nil
	}}))
	t.Cleanup(srv.Close)
	f := &fixture{Server: srv}
	resp, body := f.do(t, http.MethodGet, "/have/"+root.String())
	if !bytes.Equal(body, bits) || resp.Header.Get("Content-Type") != "application/octet-stream" || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Etag") != `"n0nce-3"` {
		t.Errorf("%v with %v", body, resp.Header)
	}
	resp, body = f.do(t, http.MethodGet, "/have/"+root.String(), "If-None-Match", `"n0nce-3"`)
	if resp.StatusCode != http.StatusNotModified || len(body) > 0 {
		t.Errorf("unchanged: %s with %v", resp.Status, body)
	}
	version = "n0nce-4"
	if resp, _ = f.do(t, http.MethodGet, "/have/"+root.String(), "If-None-Match", `"n0nce-3"`); resp.StatusCode != http.StatusOK {
		t.Errorf("changed: %s", resp.Status)
	}
	for path, want := range map[string]int{
		"/have/" + cas.Sum(cid.Raw, nil).String(): http.StatusNotFound, "/have/": http.StatusBadRequest, "/have/QmNope": http.StatusBadRequest,
	} {
		if resp, _ := f.do(t, http.MethodGet, path); resp.StatusCode != want {
			t.Errorf("%s got %s", path, resp.Status)
		}
	}
	if resp, _ := newFixture(t).do(t, http.MethodGet, "/have/"+root.String()); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a server without bitmaps answers %s", resp.Status)
	}
}
