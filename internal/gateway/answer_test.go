package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// errNone marks a response without an error.
var errNone = errors.New("no error")

// sort returns the class of an error, as in the table of doc.go.
func sort(err error) error {
	var busy *BusyError
	switch {
	case err == nil:
		return errNone
	case errors.As(err, &busy):
		return errBusy
	}
	for _, class := range []error{cas.ErrCorrupt, ErrNoRuns, fs.ErrNotExist, cas.ErrUnreachable} {
		if errors.Is(err, class) {
			return class
		}
	}
	return err
}

// questions are requests for each class of object.
func (f *fixture) questions(t *testing.T) map[string]func(*Client) error {
	block := func(id cid.Cid) func(*Client) error {
		return func(c *Client) error {
			_, err := cas.Get(t.Context(), c, id)
			return err
		}
	}
	return map[string]func(*Client) error{
		"leaf": block(f.leaves[3].CID),
		"node": block(f.file.CID),
		"record": func(c *Client) error {
			_, err := c.IPNS(t.Context(), name)
			return err
		},
		"run": func(c *Client) error {
			return c.Run(t.Context(), f.file.CID, f.leaves[:10], func(int, RunLeaf) error { return nil })
		},
		"have": func(c *Client) error {
			_, _, err := c.Have(t.Context(), f.file.CID, len(f.leaves), "")
			return err
		},
	}
}

// honest is a handler that answers every question correctly.
func (f *fixture) honest() http.Handler {
	bits := make([]byte, (len(f.leaves)+7)/8)
	return Handler(Options{
		Source: f.store,
		IPNS:   func(context.Context, string) ([]byte, error) { return f.record, nil },
		Have:   func(cid.Cid) ([]byte, string, error) { return bits, "1", nil },
	})
}

// The table of the package comment: every class of object, every kind of response.
func TestEachAnswerHasItsClassOfError(t *testing.T) {
	f := newFixture(t)
	honest := f.honest()
	says := func(status int, kind string, body []byte, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{kind}
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			w.Write(body)
		}
	}
	recorded := func(r *http.Request) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		return rec
	}
	// changed answers with the correct headers and other bytes.
	changed := func(change func([]byte) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			rec := recorded(r)
			maps.Copy(w.Header(), rec.Header())
			w.Header().Del("Content-Length")
			w.Write(change(rec.Body.Bytes()))
		}
	}
	car := recorded(httptest.NewRequest("GET", "/ipfs/"+f.file.CID.String()+"?format=car", nil)).Body.Bytes()
	html, text := []byte("<!doctype html><title>Log in</title>"), []byte("no record at all")
	binary := slices.Concat([]byte{0, 1, 2, 255}, text)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(html)
	z.Close()
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	const octets = "application/octet-stream"
	corrupt, away, absent := cas.ErrCorrupt, cas.ErrUnreachable, fs.ErrNotExist
	all := func(err error) [5]error { return [5]error{err, err, err, err, err} }
	order := []string{"leaf", "node", "record", "run", "have"}
	for answer, row := range map[string]struct {
		serve http.HandlerFunc
		want  [5]error // of each in order
	}{
		"what was asked for":         {honest.ServeHTTP, all(errNone)},
		"without a type":             {changedType(honest, ""), all(errNone)},
		"as octets":                  {changedType(honest, octets), all(errNone)},
		"as text":                    {changedType(honest, "text/plain"), [5]error{errNone, errNone, errNone, errNone, away}},
		"last byte flipped":          {changed(flip), [5]error{corrupt, corrupt, errNone, corrupt, corrupt}},
		"one byte more":              {changed(func(b []byte) []byte { return append(b, 0) }), [5]error{corrupt, corrupt, away, errNone, corrupt}},
		"a MiB more":                 {changed(func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }), [5]error{corrupt, corrupt, away, errNone, corrupt}},
		"half of it, as if whole":    {changed(func(b []byte) []byte { return b[:len(b)/2] }), [5]error{corrupt, corrupt, away, away, corrupt}},
		"nothing":                    {says(200, octets, nil), [5]error{corrupt, corrupt, away, ErrNoRuns, corrupt}},
		"other bytes":                {says(200, octets, binary), [5]error{corrupt, corrupt, away, ErrNoRuns, corrupt}},
		"other bytes, called text":   {says(200, "text/plain", binary), [5]error{corrupt, corrupt, away, ErrNoRuns, away}},
		"a CAR of the file":          {says(200, typeCAR, car), [5]error{away, away, away, errNone, away}},
		"such a CAR, called octets":  {says(200, octets, car), [5]error{away, away, away, errNone, corrupt}},
		"such a CAR, called a block": {says(200, typeRaw, car), [5]error{away, away, away, errNone, away}},
		"DAG-JSON":                   {says(200, "application/vnd.ipld.dag-json", []byte(`{"/":"x"}`)), [5]error{away, away, away, ErrNoRuns, away}},
		"the file of the CID":        {says(200, octets, f.data, "Etag", `"`+f.file.CID.String()+`"`), [5]error{corrupt, away, away, ErrNoRuns, corrupt}},
		"a web page":                 {says(200, "text/html; charset=utf-8", html), [5]error{away, away, away, ErrNoRuns, away}},
		"a web page, called other":   {says(200, octets, html), [5]error{corrupt, corrupt, away, ErrNoRuns, corrupt}},
		"a text":                     {says(200, "text/plain", text), [5]error{away, away, away, ErrNoRuns, away}},
		"JSON":                       {says(200, "application/json", []byte(`{"status":"starting"}`)), [5]error{away, away, away, ErrNoRuns, away}},
		"a compressed page":          {says(200, "text/html", zipped.Bytes(), "Content-Encoding", "gzip"), [5]error{away, away, away, ErrNoRuns, away}},
		"206":                        {says(206, octets, binary), [5]error{away, away, away, ErrNoRuns, away}},
		"304":                        {says(304, octets, nil), [5]error{away, away, away, ErrNoRuns, away}},
		"400":                        {says(400, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"401":                        {says(401, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"403":                        {says(403, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"404":                        {says(404, "text/html", html), all(absent)},
		"406":                        {says(406, "text/plain", text), [5]error{away, away, away, ErrNoRuns, away}},
		"410":                        {says(410, "text/html", html), all(absent)},
		"429":                        {says(429, "text/html", html), all(errBusy)},
		"451":                        {says(451, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"500":                        {says(500, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"502":                        {says(502, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"503":                        {says(503, "text/html", html), all(errBusy)},
		"504":                        {says(504, "text/html", html), [5]error{away, away, away, ErrNoRuns, away}},
		"redirect to itself":         {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.RequestURI, http.StatusFound) }, all(away)},
		"redirect to a file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, all(away)},
		"redirect to nowhere": {says(302, "text/html", nil), [5]error{away, away, away, ErrNoRuns, away}},
		"cut short":           {cutShort(honest), all(away)},
		"not HTTP":            {hijacked("SSH-2.0-OpenSSH_9.2\r\n"), all(away)},
		"huge headers":        {says(200, octets, nil, "X", strings.Repeat("x", 1<<20)), all(away)},
	} {
		t.Run(answer, func(t *testing.T) {
			s := httptest.NewServer(row.serve)
			defer s.Close()
			for i, class := range order {
				if err := f.questions(t)[class](&Client{Base: s.URL}); sort(err) != row.want[i] {
					t.Errorf("%s: got %v, want %v", class, err, row.want[i])
				}
			}
		})
	}
}

// changedType is h with another Content-Type and without the other headers.
func changedType(h http.Handler, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		w.Header()["Content-Type"] = []string{kind}
		w.Write(rec.Body.Bytes())
	}
}

// cutShort sends half of the body of h and closes the connection.
func cutShort(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		panic(http.ErrAbortHandler)
	}
}

func hijacked(response string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			io.WriteString(conn, response)
			conn.Close()
		}
	}
}

// A filter that refuses queries, or a cache that ignores them, is asked with other URLs.
func TestOtherURLsAreTriedAfterAnAnswerInAnotherForm(t *testing.T) {
	f := newFixture(t)
	honest := f.honest()
	stored := map[string]*httptest.ResponseRecorder{} // of the cache
	for name, row := range map[string]struct {
		serve  http.HandlerFunc
		twice  int // number of requests for two reads of a block
		record error
	}{
		"a filter refuses queries": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			honest.ServeHTTP(w, r)
		}, 3, errNone},
		"a filter refuses requests without a query": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			honest.ServeHTTP(w, r)
		}, 2, errNone},
		"a cache ignores the query, and another client asked for a CAR": {func(w http.ResponseWriter, r *http.Request) {
			rec := stored[r.URL.Path]
			if rec == nil {
				rec = httptest.NewRecorder()
				stored[r.URL.Path] = rec
				asked := r.Clone(r.Context())
				if !strings.HasSuffix(r.URL.Path, "/") && strings.HasPrefix(r.URL.Path, "/ipfs/") {
					asked.URL.RawQuery = "format=car"
				}
				honest.ServeHTTP(rec, asked)
			}
			maps.Copy(w.Header(), rec.Header())
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		}, 6, errNone},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				row.serve(w, r)
			}))
			defer s.Close()
			c := &Client{Base: s.URL}
			for range 2 {
				_, err := cas.Get(t.Context(), c, f.file.CID)
				ok(t, err)
			}
			if asked != row.twice {
				t.Errorf("%d requests, want %d", asked, row.twice)
			}
			if _, err := c.IPNS(t.Context(), name); sort(err) != row.record && err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	const date = "Wed, 21 Oct 2026 07:28:00 GMT"
	for _, row := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", "", defaultRetryAfter},
		{"0", "", 0},
		{"2", "", 2 * time.Second},
		{" 60 ", "", time.Minute},
		{"86400", "", maxRetryAfter},
		{"18446744073709551615", "", maxRetryAfter},
		{"99999999999999999999", "", defaultRetryAfter},
		{"-1", "", defaultRetryAfter},
		{"1.5", "", defaultRetryAfter},
		{"soon", "", defaultRetryAfter},
		{"Wed, 21 Oct 2026 07:28:07 GMT", date, 7 * time.Second},
		{"Wed, 21 Oct 2026 07:27:00 GMT", date, 0},
		{"Wed, 21 Oct 2099 07:28:00 GMT", date, maxRetryAfter},
		{"Wednesday, 21-Oct-26 07:28:09 GMT", date, 9 * time.Second},
		{"Wed, 21 Oct 2015 07:28:00 GMT", "", 0},
	} {
		h := http.Header{}
		h.Set("Retry-After", row.after)
		h.Set("Date", row.date)
		if got := retryAfter(h); got != row.want {
			t.Errorf("Retry-After %q at %q: %s, want %s", row.after, row.date, got, row.want)
		}
	}
}
