package gateway

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

func TestTheAnswersToAPostAreTold(t *testing.T) {
	for status, want := range map[int]error{
		200: fs.ErrNotExist, 202: nil, 204: fs.ErrNotExist, 301: fs.ErrNotExist, 307: fs.ErrNotExist, 404: fs.ErrNotExist, 405: fs.ErrNotExist, 501: fs.ErrNotExist,
		400: ErrRejected, 403: ErrRejected, 413: ErrRejected, 415: ErrRejected, 401: cas.ErrUnreachable, 429: cas.ErrUnreachable, 500: cas.ErrUnreachable, 503: cas.ErrUnreachable,
	} {
		testPost(t, status, ReportsVersion, want)
	}
}

// A captive portal or any other web server neither takes nor rejects a document. A proxy in front of a publisher that is
// off has no header either: the document is sent again later.
func TestAnAnswerWithoutTheHeaderIsNotAPublishers(t *testing.T) {
	for status, want := range map[int]error{
		200: fs.ErrNotExist, 202: fs.ErrNotExist, 204: fs.ErrNotExist, 302: fs.ErrNotExist, 400: fs.ErrNotExist, 403: fs.ErrNotExist, 404: fs.ErrNotExist,
		413: fs.ErrNotExist, 415: fs.ErrNotExist, 501: fs.ErrNotExist, 401: cas.ErrUnreachable, 429: cas.ErrUnreachable, 502: cas.ErrUnreachable, 503: cas.ErrUnreachable,
	} {
		testPost(t, status, "", want)
		testPost(t, status, "v99", want)
	}
}

// testPost sends a document to a server that answers with a status and a header.
func testPost(t *testing.T, status int, header string, want error) {
	t.Helper()
	var got atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 202 {
			body, _ := io.ReadAll(r.Body)
			got.Store(r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body))
		}
		if header != "" {
			w.Header().Set(ReportsHeader, header)
		}
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	}))
	defer server.Close()
	err := (&Client{Base: server.URL + "/"}).Post(t.Context(), "/x", "text/plain", []byte("hello"))
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		t.Errorf("status %d, header %q: got %v, want %v", status, header, err, want)
	}
	if busy := new(BusyError); status == 503 && (!errors.As(err, &busy) || busy.After != 7*time.Second) {
		t.Errorf("status 503, header %q: got %v", header, err)
	}
	if status == 202 && got.Load() != "/x text/plain hello" {
		t.Errorf("the server has got %q", got.Load())
	}
}

// A server that has no such path does not see the document.
func TestADocumentIsNotSentToAServerThatDoesNotTakeIt(t *testing.T) {
	var received atomic.Int64
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Listener = countingListener{server.Listener, &received}
	server.Start()
	defer server.Close()
	document := strings.Repeat("secret", 30_000)
	if err := (&Client{Base: server.URL}).Post(t.Context(), "/x", "text/plain", []byte(document)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if n := received.Load(); n == 0 || n > 1000 {
		t.Errorf("the server has got %d bytes", n)
	}
}

func TestAPublisherSaysThatItTakesReports(t *testing.T) {
	for header, want := range map[string]bool{"": false, ReportsVersion: true, "v99": false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set(ReportsHeader, header)
			}
			http.Error(w, "no record", http.StatusNotFound)
		}))
		c := &Client{Base: server.URL}
		if _, err := c.IPNS(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if c.TakesReports() != want {
			t.Errorf("header %q: %t", header, c.TakesReports())
		}
		server.Close()
	}
}

// A countingListener counts the bytes that its connections receive.
type countingListener struct {
	net.Listener
	received *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.received}, err
}

type countingConn struct {
	net.Conn
	received *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}
