package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

const filePath = "stable/x86_64/dtb/c0ffee.a+b,c.dtb"

// serveFile answers as a web server with one file.
func serveFile(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != targetsPath+filePath {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func TestRangeDeliversLeavesInOrder(t *testing.T) {
	f := newFixture(t)
	var opened atomic.Int32
	dialer := net.Dialer{}
	s := httptest.NewServer(serveFile(f.data))
	defer s.Close()
	c := &Client{Base: s.URL, HTTP: NewHTTP(func(ctx context.Context, network, addr string) (net.Conn, error) {
		opened.Add(1)
		return dialer.DialContext(ctx, network, addr)
	})}
	for name, leaves := range map[string][]cas.Leaf{
		"all": f.leaves, "the first": f.leaves[:1], "two": f.leaves[7:9], "the last": f.leaves[len(f.leaves)-1:],
	} {
		taken := 0
		ok(t, c.Range(t.Context(), filePath, f.file.Size, leaves, func(i int, got RunLeaf) error {
			l := leaves[i]
			if i != taken || !bytes.Equal(got.Data, f.data[l.Offset:l.Offset+l.Size]) {
				t.Fatalf("%s: leaf %d came as number %d", name, i, taken)
			}
			taken++
			return nil
		}))
		if taken != len(leaves) {
			t.Errorf("%s: %d of %d leaves", name, taken, len(leaves))
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for four ranges", n)
	}
	full := errors.New("disk full")
	if err := c.Range(t.Context(), filePath, f.file.Size, f.leaves, func(int, RunLeaf) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
}

func TestRangeAgainstServersThatHaveNone(t *testing.T) {
	f := newFixture(t)
	leaves := f.leaves[2:12] // bytes 8192 to 49151
	good := f.data[8192:49152]
	answer := func(status int, body []byte, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			w.Write(body)
		}
	}
	size := strconv.FormatInt(f.file.Size, 10)
	label := "bytes 8192-49151/" + size
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, row := range map[string]struct {
		serve http.HandlerFunc
		taken int
		want  error
	}{
		"the range":                         {serveFile(f.data), 10, nil},
		"an unknown length":                 {answer(206, good, "Content-Range", "bytes 8192-49151/*"), 10, nil},
		"more than the range":               {answer(206, f.data[8192:], "Content-Range", label), 10, nil},
		"no such file":                      {answer(404, nil), 0, ErrNoRanges},
		"refused":                           {answer(403, nil), 0, ErrNoRanges},
		"the whole file":                    {answer(200, f.data), 0, ErrNoRanges},
		"the range, but 200":                {answer(200, good), 0, ErrNoRanges},
		"a login page":                      {answer(200, []byte("<!DOCTYPE html><title>Log in</title>"), "Content-Type", "text/html"), 0, ErrNoRanges},
		"a login page labelled as range":    {answer(206, bytes.Repeat([]byte("<p>Log in</p>"), 4000), "Content-Type", "text/html", "Content-Range", label), 0, ErrNoRanges},
		"a short file":                      {serveFile(f.data[:8000]), 0, ErrNoRanges},
		"a file cut in the range":           {serveFile(f.data[:20000]), 0, ErrNoRanges},
		"another file":                      {serveFile(append(f.data, 1)), 0, ErrNoRanges},
		"another range":                     {answer(206, f.data[:40960], "Content-Range", "bytes 0-40959/"+size), 0, ErrNoRanges},
		"a part of the range":               {answer(206, good[:4096], "Content-Range", "bytes 8192-12287/"+size), 0, ErrNoRanges},
		"no label":                          {answer(206, good), 0, ErrNoRanges},
		"a multipart body":                  {answer(206, good, "Content-Type", "multipart/byteranges; boundary=x"), 0, ErrNoRanges},
		"a label of nonsense":               {answer(206, good, "Content-Range", "bytes 8192-49151/-1"), 0, ErrNoRanges},
		"compressed":                        {answer(206, good, "Content-Range", label, "Content-Encoding", "gzip"), 0, ErrNoRanges},
		"wrong bytes":                       {answer(206, flipped, "Content-Range", label), 9, cas.ErrCorrupt},
		"bytes of another place":            {answer(206, f.data[:40960], "Content-Range", label), 0, cas.ErrCorrupt},
		"cut short in a leaf":               {answer(206, good[:len(good)-100], "Content-Range", label), 9, cas.ErrUnreachable},
		"cut short between leaves":          {answer(206, good[:4096], "Content-Range", label), 1, cas.ErrUnreachable},
		"an empty body":                     {answer(206, nil, "Content-Range", label), 0, cas.ErrUnreachable},
		"busy":                              {answer(503, nil, "Retry-After", "1"), 0, cas.ErrUnreachable},
		"broken":                            {answer(500, nil), 0, cas.ErrUnreachable},
		"password needed":                   {answer(401, nil), 0, cas.ErrUnreachable},
		"not modified, which nobody asked":  {answer(304, nil), 0, cas.ErrUnreachable},
		"a label of a hundred thousand":     {answer(206, good, "Content-Range", label+string(bytes.Repeat([]byte("0"), 100_000))), 0, cas.ErrUnreachable},
		"a redirect to the address of none": {answer(302, nil, "Location", "http://127.0.0.2:9/"), 0, cas.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(row.serve)
			defer s.Close()
			taken := 0
			err := (&Client{Base: s.URL}).Range(t.Context(), filePath, f.file.Size, leaves, func(i int, _ RunLeaf) error {
				taken++
				return nil
			})
			if !errors.Is(err, row.want) || (err == nil) != (row.want == nil) || taken != row.taken {
				t.Errorf("%d leaves and %v, want %d and %v", taken, err, row.taken, row.want)
			}
		})
	}
}

func TestAStalledServerEndsTheRange(t *testing.T) {
	f := newFixture(t)
	synctest.Test(t, func(t *testing.T) {
		c := wired(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-40959/%d", f.file.Size))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(f.data[:40000])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		taken := 0
		err := c.Range(t.Context(), filePath, f.file.Size, f.leaves[:10], func(int, RunLeaf) error { taken++; return nil })
		if !errors.Is(err, errStalled) || taken != 9 {
			t.Errorf("%d leaves and %v", taken, err)
		}
	})
}

// A static server labels a block as any file, or not at all; a gateway and a cache before it do not.
func TestAStaticServerIsRecognized(t *testing.T) {
	f := newFixture(t)
	block, err := f.store.Block(t.Context(), f.leaves[0].CID)
	ok(t, err)
	for name, row := range map[string]struct {
		serve http.Handler
		want  bool
	}{
		"gateway": {f.Config.Handler, false},
		"files": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(block)
		}), true},
		"files without types": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			w.Write(block)
		}), true},
	} {
		s := httptest.NewServer(row.serve)
		c := &Client{Base: s.URL}
		if c.IsStatic() {
			t.Errorf("%s: static before the first block", name)
		}
		_, err := c.Block(t.Context(), f.leaves[0].CID)
		ok(t, err)
		if c.IsStatic() != row.want {
			t.Errorf("%s: static is %t", name, c.IsStatic())
		}
		s.Close()
	}
}

// What a range hands over is what was asked for, whatever the answer.
func FuzzRange(f *testing.F) {
	_, file, want := fuzzedFile(f)
	f.Add(206, "bytes 0-149/150", "", "application/octet-stream", want.data)
	f.Add(206, "bytes 0-149/*", "gzip", "text/html", want.data[:100])
	f.Add(200, "", "", "", want.data)
	f.Fuzz(func(t *testing.T, status int, place, coding, kind string, body []byte) {
		resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
		resp.Header.Set("Content-Range", place)
		resp.Header.Set("Content-Encoding", coding)
		resp.Header.Set("Content-Type", kind)
		if rangeStatus(resp, 0, file.Size, file.Size) == nil && status != http.StatusPartialContent {
			t.Errorf("status %d is a range", status)
		}
		want.check(t, body, func(rr *runReader, take func(i int, leaf RunLeaf) error) {
			readRange(resp.Header, rr, want.leaves, take)
		})
	})
}
