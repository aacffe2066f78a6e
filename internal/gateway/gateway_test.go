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
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/limit"
)

const name = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"

// A fixture is a gateway on loopback over a store with one file in one folder.
type fixture struct {
	*httptest.Server
	store  *cas.Memory
	data   []byte
	file   cas.File
	leaves []cas.Leaf
	dir    cid.Cid
	record []byte
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx := t.Context()
	f := &fixture{store: cas.NewMemory(), data: castest.Bytes(1, 1_000_000), record: []byte("\x42\x01s\x4a\x01v")}
	var err error
	f.file, err = cas.AddFile(ctx, f.store.Put, bytes.NewReader(f.data), "size-4096") // two levels of nodes
	ok(t, err)
	f.leaves, err = cas.Leaves(ctx, f.store, f.file.CID, f.file.Size)
	ok(t, err)
	f.dir, err = cas.AddDir(ctx, f.store.Put, []cas.Link{{Name: "file", CID: f.file.CID, Tsize: uint64(f.file.Size)}})
	ok(t, err)
	f.Server = httptest.NewServer(Handler(Options{Source: f.store, IPNS: func(_ context.Context, n string) ([]byte, error) {
		if n != name {
			return nil, fmt.Errorf("name: %w", fs.ErrNotExist)
		}
		return f.record, nil
	}}))
	t.Cleanup(f.Close)
	return f
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) do(t *testing.T, method, path string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.URL+path, nil)
	ok(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	ok(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ok(t, err)
	return resp, body
}

func TestAClientIsASource(t *testing.T) {
	castest.RunSource(t, func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
		store := cas.NewMemory()
		for c, data := range blocks {
			ok(t, store.Put(t.Context(), c, data))
		}
		server := httptest.NewServer(Handler(Options{Source: store}))
		t.Cleanup(server.Close)
		return &Client{Base: server.URL}
	})
}

func TestRawBlockWithTheHeadersOfTheSpec(t *testing.T) {
	f := newFixture(t)
	leaf := f.leaves[3]
	want := f.data[leaf.Offset : leaf.Offset+leaf.Size]
	path := "/ipfs/" + leaf.CID.String()
	for label, get := range map[string]func() (*http.Response, []byte){
		"by parameter": func() (*http.Response, []byte) { return f.do(t, "GET", path+"?format=raw") },
		"by Accept":    func() (*http.Response, []byte) { return f.do(t, "GET", path, "Accept", "text/html, "+typeRaw+";q=0.9") },
	} {
		resp, body := get()
		if resp.StatusCode != 200 || !bytes.Equal(body, want) {
			t.Errorf("%s: status %d, %d bytes", label, resp.StatusCode, len(body))
		}
	}
	resp, body := f.do(t, "HEAD", path+"?format=raw")
	if resp.StatusCode != 200 || len(body) != 0 || resp.ContentLength != leaf.Size {
		t.Errorf("HEAD: status %d, %d bytes, length %d", resp.StatusCode, len(body), resp.ContentLength)
	}
	resp, body = f.do(t, "GET", path+"?format=raw", "If-None-Match", `W/"x", "`+leaf.CID.String()+`.raw"`)
	if resp.StatusCode != 304 || len(body) != 0 {
		t.Errorf("If-None-Match: status %d, %d bytes", resp.StatusCode, len(body))
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	f := newFixture(t)
	c := f.file.CID.String()
	for label, row := range map[string]struct {
		method, path string
		status       int
	}{
		"not a CID":             {"GET", "/ipfs/hello?format=raw", 400},
		"identity CID":          {"GET", "/ipfs/bafkqaaa?format=raw", 400},
		"sha1 CID":              {"GET", "/ipfs/" + castest.RefusedCIDs(t)["sha1"].String() + "?format=raw", 400},
		"no CID":                {"GET", "/ipfs/?format=raw", 400},
		"no format":             {"GET", "/ipfs/" + c, 406},
		"unknown format":        {"GET", "/ipfs/" + c + "?format=tar", 400},
		"a record below ipfs":   {"GET", "/ipfs/" + c + "?format=ipns-record", 400},
		"a path of a raw block": {"GET", "/ipfs/" + f.dir.String() + "/file?format=raw", 400},
		"absent block":          {"GET", "/ipfs/" + cas.Sum(cid.Raw, []byte("absent")).String() + "?format=raw", 404},
		"absent CAR":            {"GET", "/ipfs/" + cas.Sum(cid.DagProtobuf, []byte("absent")).String() + "?format=car", 404},
		"absent path":           {"GET", "/ipfs/" + f.dir.String() + "/nothing?format=car", 404},
		"bad scope":             {"GET", "/ipfs/" + c + "?format=car&dag-scope=some", 400},
		"bad range":             {"GET", "/ipfs/" + c + "?format=car&entity-bytes=9:1", 400},
		"one garbled range":     {"GET", "/ipfs/" + c + "?format=car&entity-bytes=0:1,", 400},
		"many ranges":           {"GET", "/ipfs/" + c + "?format=car&entity-bytes=0:1" + strings.Repeat(",3:4", maxSpans), 400},
		"garbled range":         {"GET", "/ipfs/" + c + "?format=car&entity-bytes=a:b", 400},
		"CAR version 2":         {"GET", "/ipfs/" + c + "?format=car&car-version=2", 400},
		"unknown order":         {"GET", "/ipfs/" + c + "?format=car&car-order=bfs", 400},
		"long query":            {"GET", "/ipfs/" + c + "?format=raw&x=" + strings.Repeat("x", maxQuery), 400},
		"deep path":             {"GET", "/ipfs/" + f.dir.String() + strings.Repeat("/a", 17) + "?format=car", 400},
		"unknown name":          {"GET", "/ipns/k51other?format=ipns-record", 404},
		"name as a block":       {"GET", "/ipns/" + name + "?format=raw", 400},
		"path below a name":     {"GET", "/ipns/" + name + "/x?format=ipns-record", 400},
		"long name":             {"GET", "/ipns/" + strings.Repeat("k", 200) + "?format=ipns-record", 400},
		"other path":            {"GET", "/etc/passwd", 404},
		"POST":                  {"POST", "/ipfs/" + c + "?format=raw", 405},
		"DELETE":                {"DELETE", "/ipns/" + name, 405},
	} {
		t.Run(label, func(t *testing.T) {
			resp, body := f.do(t, row.method, row.path)
			if resp.StatusCode != row.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, row.status, body)
			}
			if h := resp.Header; h.Get("Etag") != "" || row.status != 405 && row.path != "/etc/passwd" && h.Get("Cache-Control") != noStore {
				t.Errorf("a cache may keep the error: %v", h)
			}
		})
	}
}

// readCAR returns the blocks of a CAR as go-car reads and verifies it.
func readCAR(t *testing.T, body []byte, root cid.Cid) map[cid.Cid][]byte {
	t.Helper()
	r, err := car.NewBlockReader(bytes.NewReader(body))
	ok(t, err)
	if len(r.Roots) != 1 || r.Roots[0] != root || r.Version != 1 {
		t.Errorf("version %d, roots %v", r.Version, r.Roots)
	}
	out := map[cid.Cid][]byte{}
	for {
		b, err := r.Next()
		if err == io.EOF {
			return out
		}
		ok(t, err)
		if _, twice := out[b.Cid()]; twice {
			t.Errorf("block %s is there twice", b.Cid())
		}
		out[b.Cid()] = b.RawData()
	}
}

func TestCARIsReadByGoCar(t *testing.T) {
	f := newFixture(t)
	size := f.file.Size
	leavesOf := func(from, end int64) (n int) {
		for _, l := range f.leaves {
			if l.Offset < end && l.Offset+l.Size > from {
				n++
			}
		}
		return n
	}
	for label, row := range map[string]struct {
		root   cid.Cid
		query  string
		leaves int
	}{
		"all":                   {f.dir, "", len(f.leaves)},
		"a file":                {f.file.CID, "&dag-scope=entity", len(f.leaves)},
		"a folder is an entity": {f.dir, "&dag-scope=entity", 0},
		"one block":             {f.file.CID, "&dag-scope=block", 0},
		"the first bytes":       {f.file.CID, "&dag-scope=entity&entity-bytes=0:10", 1},
		"the range implies it":  {f.file.CID, "&entity-bytes=4095:4096", 2},
		"a run":                 {f.file.CID, "&entity-bytes=8192:20000", leavesOf(8192, 20001)},
		"two ranges":            {f.file.CID, "&entity-bytes=8192:20000,40960:45055", leavesOf(8192, 20001) + 1},
		"in the wrong order":    {f.file.CID, "&entity-bytes=-10:*,0:10,5:20", 2},
		"to the end":            {f.file.CID, "&entity-bytes=900000:*", leavesOf(900000, size)},
		"from the end":          {f.file.CID, "&entity-bytes=-10:*", 1},
		"both from the end":     {f.file.CID, "&entity-bytes=-9000:-5000", leavesOf(size-9000, size-4999)},
		"beyond the end":        {f.file.CID, "&entity-bytes=999000:5000000", leavesOf(999000, size)},
		"far beyond the end":    {f.file.CID, "&entity-bytes=0:9223372036854775807", leavesOf(0, size)},
		"after the end":         {f.file.CID, "&entity-bytes=2000000:*", 0},
	} {
		t.Run(label, func(t *testing.T) {
			resp, body := f.do(t, "GET", "/ipfs/"+row.root.String()+"?format=car"+row.query)
			if ct := resp.Header.Get("Content-Type"); ct != typeCAR+"; version=1; order=dfs; dups=n" {
				t.Errorf("Content-Type %q", ct)
			}
			blocks := readCAR(t, body, row.root)
			n := 0
			for c := range blocks {
				if c.Prefix().Codec == cid.Raw {
					n++
				}
			}
			if n != row.leaves || blocks[row.root] == nil {
				t.Errorf("%d leaves, want %d; root there: %t", n, row.leaves, blocks[row.root] != nil)
			}
		})
	}
}

func TestCARByPathHasTheFoldersAndTheFile(t *testing.T) {
	f := newFixture(t)
	_, body := f.do(t, "GET", "/ipfs/"+f.dir.String()+"/file?format=car&dag-scope=entity")
	blocks := readCAR(t, body, f.dir)
	if blocks[f.dir] == nil || blocks[f.file.CID] == nil || blocks[f.leaves[0].CID] == nil {
		t.Errorf("of folder, file and leaf some are missing in %d blocks", len(blocks))
	}
}

func TestDuplicateBlocksAreSentTwiceOnlyWhenAsked(t *testing.T) {
	f := newFixture(t)
	twice := bytes.Repeat(f.data[:4096], 2)
	file, err := cas.AddFile(t.Context(), f.store.Put, bytes.NewReader(twice), "size-4096")
	ok(t, err)
	path := "/ipfs/" + file.CID.String()
	_, once := f.do(t, "GET", path, "Accept", typeCAR)
	resp, both := f.do(t, "GET", path, "Accept", typeCAR+"; version=1; order=dfs; dups=y")
	if len(both) < len(once)+4096 || !strings.HasSuffix(resp.Header.Get("Content-Type"), "dups=y") {
		t.Errorf("%d and %d bytes, %v", len(once), len(both), resp.Header)
	}
}

func TestARequestForManyRangesGetsTheBlock(t *testing.T) {
	f := newFixture(t)
	leaf := f.leaves[3]
	path := "/ipfs/" + leaf.CID.String() + "?format=raw"
	if resp, body := f.do(t, "GET", path, "Range", "bytes=1-2"); resp.StatusCode != 206 || len(body) != 2 {
		t.Errorf("one range: status %d, %d bytes", resp.StatusCode, len(body))
	}
	if resp, body := f.do(t, "GET", path, "Range", "bytes=1-2,5-6"); resp.StatusCode != 200 || int64(len(body)) != leaf.Size {
		t.Errorf("two ranges: status %d, %d bytes", resp.StatusCode, len(body))
	}
}

// reads counts the reads of a source.
type reads struct {
	cas.Source
	n *int
}

func (r reads) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	*r.n++
	return r.Source.Block(ctx, c)
}

// 100 MB of zeros are three different blocks. A request for them must not read 25,000 blocks.
func TestARepetitiveFileReadsEachBlockOnce(t *testing.T) {
	store, n := cas.NewMemory(), 0
	zeros := io.LimitReader(zero{}, 174*150*4096)
	file, err := cas.AddFile(t.Context(), store.Put, zeros, "size-4096")
	ok(t, err)
	f := &fixture{Server: httptest.NewServer(Handler(Options{Source: reads{store, &n}}))}
	defer f.Close()
	for span, blocks := range map[string]int{"": 3, "&entity-bytes=5000:*": 3, "&entity-bytes=0:-5000": 3, "&entity-bytes=5000:*&nodes=n": 1} {
		n = 0
		resp, body := f.do(t, "GET", "/ipfs/"+file.CID.String()+"?format=car"+span)
		if resp.StatusCode != 200 || len(readCAR(t, body, file.CID)) != blocks || n > 10 {
			t.Errorf("%s: status %d, %d bytes, %d reads", span, resp.StatusCode, len(body), n)
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestADamagedBlockIsNotServed(t *testing.T) {
	f := newFixture(t)
	leaf := f.leaves[100].CID
	damaged := damagedStore{f.store, leaf}
	f.Config.Handler = Handler(Options{Source: damaged})
	resp, _ := f.do(t, "GET", "/ipfs/"+leaf.String()+"?format=raw")
	if resp.StatusCode != 500 {
		t.Errorf("status %d", resp.StatusCode)
	}
	resp, err := http.Get(f.URL + "/ipfs/" + f.file.CID.String() + "?format=car")
	ok(t, err)
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("an incomplete CAR ended like a complete one")
	}
}

// damagedStore is a store with one damaged block.
type damagedStore struct {
	cas.Source
	bad cid.Cid
}

func (r damagedStore) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := r.Source.Block(ctx, c)
	if err == nil && c == r.bad {
		data = slices.Clone(data)
		data[0] ^= 1
	}
	return data, err
}

func TestClientGetsBlocksAndRecords(t *testing.T) {
	f := newFixture(t)
	c := &Client{Base: f.URL + "/"}
	var out bytes.Buffer
	ok(t, cas.Copy(t.Context(), &out, c, f.file.CID, f.file.Size))
	if !bytes.Equal(out.Bytes(), f.data) {
		t.Error("the file is not what was added")
	}
	rec, err := c.IPNS(t.Context(), name)
	if err != nil || !bytes.Equal(rec, f.record) {
		t.Errorf("record %q, %v", rec, err)
	}
	if _, err := c.IPNS(t.Context(), "k51other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown name: %v", err)
	}
	if _, err := c.Block(t.Context(), cas.Sum(cid.Raw, []byte("absent"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent block: %v", err)
	}
}

func TestClientAgainstHostileGateways(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "gotcha") }))
	defer elsewhere.Close()
	for label, row := range map[string]struct {
		serve http.HandlerFunc
		want  error // nil: at most a block and one byte are returned
	}{
		"endless body": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, nil},
		"false Content-Length": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9999999999999")
			w.Write([]byte("abc"))
		}, cas.ErrUnreachable},
		"redirect to another host": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, cas.ErrUnreachable},
		"redirect for ever":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }, cas.ErrUnreachable},
		"huge headers":             {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, cas.ErrUnreachable},
		"gone":                     {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "", http.StatusGone) }, fs.ErrNotExist},
		"on fire":                  {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "", http.StatusServiceUnavailable) }, cas.ErrUnreachable},
		"partial content":          {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(206) }, cas.ErrUnreachable},
		"cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("abc"))
			panic(http.ErrAbortHandler)
		}, cas.ErrUnreachable},
	} {
		t.Run(label, func(t *testing.T) {
			s := httptest.NewServer(row.serve)
			defer s.Close()
			defer s.CloseClientConnections()
			data, err := (&Client{Base: s.URL}).Block(t.Context(), cas.Sum(cid.Raw, []byte("x")))
			if !errors.Is(err, row.want) || len(data) > cas.MaxBlock+1 {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
}

func TestAClientAbandonsAStalledGateway(t *testing.T) {
	hang := func(r *http.Request) { <-r.Context().Done() }
	for label, serve := range map[string]http.HandlerFunc{
		"silence": func(w http.ResponseWriter, r *http.Request) { hang(r) },
		"silence in the body": func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("abc"))
			http.NewResponseController(w).Flush()
			hang(r)
		},
		"a trickle": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte("a"))
				http.NewResponseController(w).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		},
	} {
		t.Run(label, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, start := wired(t, serve), time.Now()
				_, err := c.Block(t.Context(), cas.Sum(cid.Raw, []byte("x")))
				if took := time.Since(start); !errors.Is(err, cas.ErrUnreachable) || took < DefaultIdle || took > DefaultIdle+time.Second {
					t.Errorf("%v, after %s", err, took)
				}
			})
		})
	}
}

func TestACancelledRequestReturnsTheContextError(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Client{Base: f.URL}).Block(ctx, f.file.CID); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A client that stops reading must not keep a connection and its goroutine for ever.
func TestAStalledClientLosesItsConnection(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(2, 64<<20)), "size-1048576")
	ok(t, err)
	closed := make(chan struct{})
	s := httptest.NewUnstartedServer(withGrace(Handler(Options{Source: store}), 300*time.Millisecond))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}
	s.Start()
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	ok(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /ipfs/"+file.CID.String()+"?format=car HTTP/1.1\r\nHost: x\r\n\r\n")
	ok(t, err)
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("the connection is still open")
	}
}

// withGrace mounts a handler as its users do.
func withGrace(h http.Handler, grace time.Duration) http.Handler {
	return limit.NewRates(limit.Options{Grace: grace}).Handler(h)
}

// A slow client that keeps reading gets the whole answer.
func TestASlowClientGetsTheWholeAnswer(t *testing.T) {
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(3, 8<<20)), "size-1048576")
	ok(t, err)
	synctest.Test(t, func(t *testing.T) {
		const grace = 500 * time.Millisecond
		c, start := wired(t, withGrace(Handler(Options{Source: store}), grace)), time.Now()
		resp, err := c.HTTP.Get(c.Base + "/ipfs/" + file.CID.String() + "?format=car")
		ok(t, err)
		defer resp.Body.Close()
		n := int64(0)
		for err == nil {
			time.Sleep(grace / 5)
			var got int64
			got, err = io.CopyN(io.Discard, resp.Body, 256<<10)
			n += got
		}
		if took := time.Since(start); err != io.EOF || n < file.Size || took < 2*grace {
			t.Errorf("%d of %d bytes in %s, then %v", n, file.Size, took, err)
		}
	})
}

func BenchmarkBlocks(b *testing.B) {
	store := cas.NewMemory()
	file, err := cas.AddFile(b.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 16<<20)), cas.DefaultChunker)
	if err != nil {
		b.Fatal(err)
	}
	leaves, err := cas.Leaves(b.Context(), store, file.CID, file.Size)
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewServer(Handler(Options{Source: store}))
	defer s.Close()
	c := &Client{Base: s.URL}
	b.SetBytes(file.Size / int64(len(leaves)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := cas.Get(b.Context(), c, leaves[i%len(leaves)].CID); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
