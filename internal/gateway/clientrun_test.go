package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

func TestRunDeliversLeavesInOrder(t *testing.T) {
	f := newFixture(t)
	c := &Client{Base: f.URL}
	gaps := slices.Concat(f.leaves[:1], f.leaves[2:3], f.leaves[170:180], f.leaves[len(f.leaves)-1:]) // two nodes
	most := []cas.Leaf{}
	for i := range MaxGaps + 1 {
		most = append(most, f.leaves[3*i])
	}
	for r, leaves := range map[string][]cas.Leaf{
		"all": f.leaves, "the first": f.leaves[:1], "two": f.leaves[7:9], "of two nodes": f.leaves[170:180],
		"the last": f.leaves[len(f.leaves)-1:], "with gaps": gaps, "with most gaps": most,
	} {
		taken := 0
		ok(t, c.Run(t.Context(), f.file.CID, leaves, func(i int, got RunLeaf) error {
			l := leaves[i]
			if i != taken || !bytes.Equal(got.Data, f.data[l.Offset:l.Offset+l.Size]) {
				t.Fatalf("%s: leaf %d came as number %d", r, i, taken)
			}
			taken++
			return nil
		}))
		if taken != len(leaves) {
			t.Errorf("%s: %d of %d leaves", r, taken, len(leaves))
		}
	}
}

func TestRunsOfOurGatewayOmitNodes(t *testing.T) {
	f := newFixture(t)
	none := func(int, RunLeaf) error { return nil }
	ours := &Client{Base: f.URL}
	ok(t, ours.Run(t.Context(), f.file.CID, f.leaves, none))
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "&nodes=n", "", 1)
		f.Config.Handler.ServeHTTP(w, r)
	}))
	defer other.Close()
	stock := &Client{Base: other.URL}
	ok(t, stock.Run(t.Context(), f.file.CID, f.leaves, none))
	if !ours.TakesGaps() || stock.TakesGaps() {
		t.Errorf("takes gaps: ours %t, one that does not know the parameter %t", ours.TakesGaps(), stock.TakesGaps())
	}
	if ours.RepeatsNodes() || !stock.RepeatsNodes() {
		t.Errorf("repeats nodes: ours %t, one that does not know the parameter %t", ours.RepeatsNodes(), stock.RepeatsNodes())
	}
}

func TestRunsUseOneConnection(t *testing.T) {
	f := newFixture(t)
	var opened atomic.Int32
	dialer := net.Dialer{}
	c := &Client{Base: f.URL, HTTP: NewHTTP(func(ctx context.Context, network, addr string) (net.Conn, error) {
		opened.Add(1)
		return dialer.DialContext(ctx, network, addr)
	})}
	for range 5 {
		ok(t, c.Run(t.Context(), f.file.CID, f.leaves[3:60], func(int, RunLeaf) error { return nil }))
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for five runs", n)
	}
}

func TestAnErrorOfTheCallbackEndsTheRun(t *testing.T) {
	f := newFixture(t)
	full := errors.New("disk full")
	err := (&Client{Base: f.URL}).Run(t.Context(), f.file.CID, f.leaves, func(int, RunLeaf) error { return full })
	if !errors.Is(err, full) {
		t.Error(err)
	}
}

func TestRunAgainstHostileGateways(t *testing.T) {
	f := newFixture(t)
	_, good := f.do(t, "GET", fmt.Sprintf("/ipfs/%s?format=car&entity-bytes=0:40959", f.file.CID))
	body := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
	}
	status := func(n int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(n)
		}
	}
	head := good[:len(car.AppendHeader(nil, f.file.CID.KeyString()))]
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	rootBlock, err := f.store.Block(t.Context(), f.file.CID)
	ok(t, err)
	for name, row := range map[string]struct {
		serve http.HandlerFunc
		taken int
		want  error
	}{
		"a static server: the root block":  {body(rootBlock), 0, ErrNoRuns},
		"a static server: not found":       {status(404), 0, fs.ErrNotExist},
		"does not speak CAR":               {status(406), 0, ErrNoRuns},
		"a web page":                       {body([]byte("<!DOCTYPE html><title>Welcome</title>")), 0, ErrNoRuns},
		"nothing":                          {body(nil), 0, ErrNoRuns},
		"the last byte of a leaf is wrong": {body(flipped), 9, cas.ErrCorrupt},
		"cut short in a leaf":              {body(good[:len(good)-100]), 9, cas.ErrUnreachable},
		"cut short between leaves":         {body(good[:len(good)-4096-38]), 9, cas.ErrUnreachable},
		"a section of 2^60 bytes":          {body(append(bytes.Clone(head), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f)), 0, ErrNoRuns},
		"a section of a byte":              {body(append(bytes.Clone(head), 1, 7)), 0, ErrNoRuns},
		"the header of another root":       {body(bytes.Replace(bytes.Clone(good), f.file.CID.Bytes()[4:], f.dir.Bytes()[4:], 1)), 0, ErrNoRuns},
		"nodes without end": {func(w http.ResponseWriter, r *http.Request) {
			w.Write(head)
			node := append([]byte{36 + 2}, f.dir.Bytes()...)
			for r.Context().Err() == nil {
				if _, err := w.Write(append(node, 1, 2)); err != nil {
					return
				}
			}
		}, 0, ErrNoRuns},
		"500": {status(500), 0, ErrNoRuns},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(row.serve)
			defer s.Close()
			taken := 0
			err := (&Client{Base: s.URL}).Run(t.Context(), f.file.CID, f.leaves[:10], func(i int, _ RunLeaf) error {
				taken++
				return nil
			})
			if !errors.Is(err, row.want) || taken != row.taken {
				t.Errorf("%d leaves and %v, want %d and %v", taken, err, row.taken, row.want)
			}
		})
	}
}

func TestAStalledGatewayEndsTheRun(t *testing.T) {
	f := newFixture(t)
	_, good := f.do(t, "GET", fmt.Sprintf("/ipfs/%s?format=car&entity-bytes=0:40959", f.file.CID))
	synctest.Test(t, func(t *testing.T) {
		c := wired(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(good[:len(good)-100])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		taken := 0
		err := c.Run(t.Context(), f.file.CID, f.leaves[:10], func(int, RunLeaf) error { taken++; return nil })
		if !errors.Is(err, cas.ErrUnreachable) || taken != 9 {
			t.Errorf("%d leaves and %v", taken, err)
		}
	})
}

func TestHave(t *testing.T) {
	f := newFixture(t)
	const leaves = 19
	type answer struct {
		status int
		body   []byte
		etag   string
	}
	for name, row := range map[string]struct {
		answer
		asked string
		want  []byte
		err   error
	}{
		"some":                         {answer{200, []byte{0x80, 0x01, 0x20}, `"1"`}, "", []byte{0x80, 0x01, 0x20}, nil},
		"nothing new":                  {answer{304, nil, ""}, `"1"`, nil, nil},
		"nothing new to a new client":  {answer{304, nil, ""}, "", nil, cas.ErrUnreachable},
		"unknown here":                 {answer{404, nil, ""}, "", nil, fs.ErrNotExist},
		"too short":                    {answer{200, []byte{0x80, 0x01}, ""}, "", nil, cas.ErrCorrupt},
		"too long":                     {answer{200, make([]byte, 4), ""}, "", nil, cas.ErrCorrupt},
		"far too long":                 {answer{200, make([]byte, 1<<22), ""}, "", nil, cas.ErrCorrupt},
		"leaves beyond the last":       {answer{200, []byte{0, 0, 0x10}, ""}, "", nil, cas.ErrCorrupt},
		"a web page":                   {answer{200, []byte("<html>Log in to the hotel</html>"), ""}, "", nil, cas.ErrUnreachable},
		"busy":                         {answer{503, nil, ""}, "", nil, cas.ErrUnreachable},
		"a version of a million bytes": {answer{200, make([]byte, 3), `"` + strings.Repeat("x", 20000) + `"`}, "", make([]byte, 3), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/have/"+f.file.CID.String() || r.Header.Get("If-None-Match") != row.asked {
					t.Errorf("asked for %s, %q", r.URL.Path, r.Header.Get("If-None-Match"))
				}
				if row.etag != "" {
					w.Header().Set("Etag", row.etag)
				}
				w.WriteHeader(row.status)
				w.Write(row.body)
			}))
			defer s.Close()
			got, tag, err := (&Client{Base: s.URL}).Have(t.Context(), f.file.CID, leaves, row.asked)
			if !errors.Is(err, row.err) || (err == nil) != (row.err == nil) || !bytes.Equal(got, row.want) || len(tag) > maxETag {
				t.Errorf("got %x, version of %d bytes, %v", got, len(tag), err)
			}
		})
	}
}

// What a run hands over is what was asked for, whatever the bytes.
func FuzzRun(f *testing.F) {
	store, file, want := fuzzedFile(f)
	rec := httptest.NewRecorder()
	Handler(Options{Source: store}).ServeHTTP(rec, httptest.NewRequest("GET", "/ipfs/"+file.CID.String()+"?format=car", nil))
	f.Add(rec.Body.Bytes())
	f.Add(rec.Body.Bytes()[:100])
	f.Fuzz(func(t *testing.T, body []byte) {
		want.check(t, body, func(rr *runReader, take func(i int, leaf RunLeaf) error) {
			new(Client).readRun(rr, file.CID, want.leaves, take)
		})
	})
}

// fuzzedLeaves are the leaves of a file that a fuzz test requests.
type fuzzedLeaves struct {
	data   []byte // of the file
	leaves []cas.Leaf
}

func fuzzedFile(f *testing.F) (*cas.Memory, cas.File, fuzzedLeaves) {
	f.Helper()
	store := cas.NewMemory()
	data := bytes.Repeat([]byte("phase"), 30)
	file, err := cas.AddFile(context.Background(), store.Put, bytes.NewReader(data), "size-64")
	if err != nil {
		f.Fatal(err)
	}
	leaves, err := cas.Leaves(context.Background(), store, file.CID, file.Size)
	if err != nil {
		f.Fatal(err)
	}
	return store, file, fuzzedLeaves{data, leaves}
}

// check calls read with a body, and compares each leaf that it hands over with the file.
func (l fuzzedLeaves) check(t *testing.T, body []byte, read func(rr *runReader, take func(i int, leaf RunLeaf) error)) {
	w := (&Client{}).startWatchdog(func(error) {})
	defer w.stop()
	rr := newRunReader(bytes.NewReader(body), w)
	defer rr.release()
	read(rr, func(i int, got RunLeaf) error {
		if leaf := l.leaves[i]; !bytes.Equal(got.Data, l.data[leaf.Offset:leaf.Offset+leaf.Size]) {
			t.Errorf("leaf %d is %x", i, got.Data)
		}
		return nil
	})
}
