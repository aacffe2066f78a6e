package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestNoClientTakesEverySlot(t *testing.T) {
	s := newSlots(4, time.Minute)
	for range 2 {
		ok(t, s.take(t.Context(), "greedy"))
	}
	if s.try("greedy") {
		t.Error("a client holds more than half")
	}
	for _, who := range []string{"a", "b"} {
		if !s.try(who) {
			t.Errorf("%s finds no slot", who)
		}
	}
	if s.try("c") {
		t.Error("there are more than four")
	}
}

// The line is fair between clients: who asked for much first waits for who asked once.
func TestAFreeSlotGoesToTheClientThatHoldsTheFewest(t *testing.T) {
	s := newSlots(2, time.Minute)
	ok(t, s.take(t.Context(), "greedy"))
	ok(t, s.take(t.Context(), "other"))
	order := make(chan string, 3)
	for i, who := range []string{"greedy", "greedy", "late"} {
		go func() {
			if s.take(t.Context(), who) == nil {
				order <- who
			}
		}()
		waitFor(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.waiting == i+1 })
	}
	s.give("other")
	if who := <-order; who != "late" {
		t.Errorf("%s came first", who)
	}
	s.give("greedy")
	if who := <-order; who != "greedy" {
		t.Errorf("%s came second", who)
	}
}

func TestAWaitForASlotIsBounded(t *testing.T) {
	s := newSlots(1, time.Millisecond)
	ok(t, s.take(t.Context(), "a"))
	if err := s.take(t.Context(), "b"); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.wait = time.Minute
	if err := s.take(gone, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.give("a")
	if s.used != 0 || s.waiting != 0 || len(s.clients) != 0 {
		t.Errorf("left behind: %+v", s)
	}
}

func TestTheLineIsBounded(t *testing.T) {
	s := newSlots(1, time.Minute)
	ok(t, s.take(t.Context(), "a"))
	for range slotQueue {
		if s.line("b") == nil {
			t.Fatal("the line is shorter than it says")
		}
	}
	if s.line("b") != nil {
		t.Error("the line has no end")
	}
	if s.line("c") == nil {
		t.Error("who fills the line keeps others out of it")
	}
	if s.line("c") != nil {
		t.Error("the line has no end for the others")
	}
}

// A gate is a store whose reads of one block wait, as an upload does on a slow line.
type gate struct {
	cas.Source
	block  cid.Cid
	came   chan struct{} // closed when somebody waits
	opened chan struct{}
}

func (g gate) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == g.block {
		close(g.came)
		select {
		case <-g.opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Source.Block(ctx, c)
}

// With the only slot taken, bulk is told to come back, and metadata, nodes, records and
// bitmaps are served as if nothing were.
func TestAFullPublisherStillServesWhatIsSmall(t *testing.T) {
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

	// the CAR holds the slot for as long as the gate is shut
	car := make(chan int)
	go func() {
		_, body := f.do(t, http.MethodGet, "/ipfs/"+file.CID.String()+"?format=car")
		car <- len(body)
	}()
	<-g.came

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

// A CAR gives its slot to who waits, and comes round again.
func TestACARTakesTurns(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 12<<20)), "size-1048576")
	ok(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	ok(t, err)
	early := gate{store, leaves[2].CID, make(chan struct{}), make(chan struct{})}
	late := gate{early, leaves[9].CID, make(chan struct{}), make(chan struct{})}
	h := &handler{Options: Options{Source: late}, limit: stallLimit, slots: newSlots(1, 20*time.Second), memory: newMemory()}
	f := &fixture{Server: httptest.NewServer(h.only(h.ipfs))}
	t.Cleanup(f.Close)

	car := make(chan int)
	go func() {
		_, body := f.do(t, http.MethodGet, "/ipfs/"+file.CID.String()+"?format=car")
		car <- len(body)
	}()
	<-early.came // it has the only slot
	leaf := make(chan int)
	go func() {
		resp, _ := f.do(t, http.MethodGet, "/ipfs/"+leaves[1].CID.String()+"?format=raw")
		leaf <- resp.StatusCode
	}()
	waitFor(t, func() bool { h.slots.mu.Lock(); defer h.slots.mu.Unlock(); return h.slots.waiting == 1 })
	close(early.opened)
	if status := <-leaf; status != http.StatusOK { // the CAR is not over: its tenth leaf is held back
		t.Errorf("the leaf got %d", status)
	}
	close(late.opened)
	if n := <-car; n < 12<<20 {
		t.Errorf("the CAR has %d bytes", n)
	}
	waitFor(t, func() bool { h.slots.mu.Lock(); defer h.slots.mu.Unlock(); return len(h.slots.clients) == 0 })
}

// A CAR that is not let on again has no slot that it could give back.
func TestACARThatIsNotLetOnGivesNothingBack(t *testing.T) {
	turn := turn{slots: newSlots(1, time.Millisecond), who: "car"}
	ok(t, turn.begin(t.Context()))
	if turn.slots.line("other") == nil {
		t.Fatal("no place in the line")
	}
	if err := turn.next(t.Context()); !errors.Is(err, errBusy) {
		t.Fatalf("got %v", err)
	}
	turn.end()
	if turn.slots.used != 1 || turn.slots.clients["other"].held != 1 {
		t.Errorf("%d are used", turn.slots.used)
	}
}

// The bytes of an answer that was cut short were sent.
func TestWhatIsCutShortIsCounted(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 1<<20)), "size-65536")
	ok(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	ok(t, err)
	gone, cancel := context.WithCancel(t.Context())
	last := gate{store, leaves[len(leaves)-1].CID, make(chan struct{}), make(chan struct{})}
	sent := make(chan int64, 1)
	srv := httptest.NewServer(Handler(Options{Source: last, Sent: func(n int64) { sent <- n }}))
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(gone, http.MethodGet, srv.URL+"/ipfs/"+file.CID.String()+"?format=car", nil)
	ok(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	ok(t, err)
	defer resp.Body.Close()
	<-last.came
	cancel()
	if n := <-sent; n < 512<<10 {
		t.Errorf("%d bytes were counted", n)
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
		t.Errorf("a server without bitmaps says %s", resp.Status)
	}
}

// waitFor waits until something that another goroutine does has happened.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
	}
}
