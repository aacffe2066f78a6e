package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

// Every request gets a valid HTTP response, only with blocks of the store, and with headers that
// match the body.
func FuzzHandler(f *testing.F) {
	store := cas.NewMemory()
	file, err := cas.AddFile(context.Background(), store.Put, bytes.NewReader(castest.Bytes(1, 20_000)), "size-1024")
	if err != nil {
		f.Fatal(err)
	}
	dir, err := cas.AddDir(context.Background(), store.Put, []cas.Link{{Name: "file", CID: file.CID, Tsize: uint64(file.Size)}})
	if err != nil {
		f.Fatal(err)
	}
	h := Handler(Options{
		Source: store, UploadSlots: 2,
		IPNS: func(_ context.Context, n string) ([]byte, error) {
			if n != name {
				return nil, fmt.Errorf("name: %w", fs.ErrNotExist)
			}
			return []byte("a record"), nil
		},
		Have:     func(c cid.Cid) ([]byte, string, error) { return []byte{0x80}, "1", nil },
		Metadata: func(n string) ([]byte, error) { return []byte("{}"), missingUnless(n == "1.root.json") },
		Target: func(path string) (File, error) {
			return File{CID: file.CID, Length: file.Size, SHA256: "sum"}, missingUnless(path == "a/sum.kernel")
		},
	})
	for _, seed := range []struct{ path, query, accept, match, span string }{
		{"/ipfs/" + file.CID.String(), "format=raw", "", "", ""},
		{"/ipfs/" + file.CID.String(), "format=car&entity-bytes=0:9,-5:*&nodes=n", "", "", ""},
		{"/ipfs/" + dir.String() + "/file", "dag-scope=entity", typeCAR + "; dups=y", "*", ""},
		{"/ipfs/" + file.CID.String() + "/", "format=raw", typeRaw, `"x"`, "bytes=1-2"},
		{"/ipns/" + name, "format=ipns-record", "", "", ""},
		{"/have/" + file.CID.String(), "", "", `"1"`, "bytes=0-"},
		{"/tuf/metadata/1.root.json", "", "", "*", ""},
		{"/tuf/targets/a/sum.kernel", "", "", `"sum"`, "bytes=5-,1-2"},
		{"/tuf/targets/a/sum.kernel", "", "", "", "bytes=30000-"},
	} {
		f.Add("GET", seed.path, seed.query, seed.accept, seed.match, seed.span)
	}
	f.Fuzz(func(t *testing.T, method, path, query, accept, match, span string) {
		r, err := http.NewRequest("GET", "http://gateway/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Method, r.URL.Path, r.URL.RawQuery, r.RemoteAddr = method, "/"+strings.TrimPrefix(path, "/"), query, "192.0.2.1:9"
		r.Header.Set("Accept", accept)
		r.Header.Set("If-None-Match", match)
		r.Header.Set("Range", span)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		resp := rec.Result()
		body, _ := io.ReadAll(resp.Body)
		switch resp.StatusCode {
		case 200:
			checkForm(t, r, resp, body, store)
		case 206, 301, 304, 307, 308, 400, 404, 405, 406, 412, 416:
		default:
			t.Errorf("%s %s?%s: status %d", method, path, query, resp.StatusCode)
		}
		if kept := resp.Header.Get("Cache-Control"); kept == immutable && resp.StatusCode >= 400 {
			t.Errorf("%s %s?%s: status %d is kept", method, path, query, resp.StatusCode)
		}
	})
}

// checkForm checks that the body of a complete response has the form that its headers name.
func checkForm(t *testing.T, r *http.Request, resp *http.Response, body []byte, store cas.Source) {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	tag := strings.Trim(strings.TrimPrefix(resp.Header.Get("Etag"), "W/"), `"`)
	switch {
	case r.Method != http.MethodGet:
	case kind == typeRaw:
		c, err := cid.Decode(strings.TrimSuffix(tag, ".raw"))
		if err != nil || cas.Check(c, body) != nil {
			t.Errorf("Etag %s is not that of the %d bytes", tag, len(body))
		}
	case kind == typeCAR:
		if !isCAR(body) || resp.Header.Get("Cache-Control") != noStore {
			t.Errorf("no CAR of %d bytes: %v", len(body), resp.Header)
		}
	case strings.HasPrefix(r.URL.Path, targetsPath):
		if int64(len(body)) != resp.ContentLength || len(body) != 20_000 || tag != "sum" {
			t.Errorf("target of %d bytes: %v", len(body), resp.Header)
		}
	case kind != typeIPNS && kind != typeHave && kind != "application/json":
		t.Errorf("a %q", kind)
	}
	if resp.Header.Get("Vary") != "Accept" {
		t.Error("without Vary")
	}
}

func missingUnless(found bool) error {
	if found {
		return nil
	}
	return fs.ErrNotExist
}

// A bitmap that a client accepts has one bit for each leaf.
func FuzzHave(f *testing.F) {
	root := cas.Sum(cid.DagProtobuf, []byte("root"))
	f.Add([]byte{0x80, 0x01, 0x20}, uint16(19), "application/octet-stream", `"1"`, 200)
	f.Add([]byte("<html>"), uint16(48), "text/html", "", 200)
	f.Add([]byte(nil), uint16(0), "", "", 304)
	f.Fuzz(func(t *testing.T, body []byte, leaves uint16, kind, tag string, status int) {
		c := &Client{Base: "http://peer", HTTP: &http.Client{Transport: answers(func(r *http.Request) *http.Response {
			return &http.Response{
				StatusCode: status, Header: http.Header{"Content-Type": {kind}, "Etag": {tag}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r,
			}
		})}}
		got, newTag, err := c.Have(t.Context(), root, int(leaves), "")
		if err != nil {
			return
		}
		if status != 200 || len(got) != (int(leaves)+7)/8 || !bytes.Equal(got, body) || len(newTag) > maxETag {
			t.Errorf("status %d, %d leaves: %x of %x", status, leaves, got, body)
		}
		if n := int(leaves) % 8; n != 0 && got[len(got)-1]<<n != 0 {
			t.Errorf("%d leaves: bits behind the last: %x", leaves, got)
		}
	})
}

type answers func(*http.Request) *http.Response

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }
