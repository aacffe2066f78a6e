package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

func TestABoxKeepsTheNewestDocuments(t *testing.T) {
	b := Box{filepath.Join(t.TempDir(), "a", "pending")}
	start := time.UnixMilli(1_700_000_000_000)
	for i := range 20 {
		check(t, b.Put(id(i), start.Add(time.Duration(i)*time.Second), []byte{byte(i)}))
	}
	check(t, b.Put(id(19), start.Add(time.Minute), []byte("again")))
	names := b.Names()
	if len(names) != MaxDocuments || !strings.HasSuffix(names[0], id(4)+".json") {
		t.Errorf("%d documents: %q", len(names), names)
	}
	if data, err := b.read(names[len(names)-1]); err != nil || string(data) != "again" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(b.Dir, names[0])); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestABoxIsBoundedInBytes(t *testing.T) {
	b := Box{t.TempDir()}
	// documents that this program never writes, but which a cache may have
	for i := range 10 {
		check(t, os.WriteFile(filepath.Join(b.Dir, fmt.Sprintf("%013d-%s.json", i, id(i))), make([]byte, 1<<20), 0o600))
	}
	check(t, b.Put(id(99), time.Now(), []byte("new")))
	if n := len(b.Names()); n != 4 {
		t.Errorf("%d documents", n)
	}
}

func TestWhatAnAttackerWroteIntoABoxIsNotRead(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secret, []byte("secret"), 0o600))
	b := Box{t.TempDir()}
	name := fmt.Sprintf("%013d-%s.json", 1, id(1))
	check(t, os.Symlink(secret, filepath.Join(b.Dir, name)))
	check(t, os.WriteFile(filepath.Join(b.Dir, "other.txt"), nil, 0o600))
	if names := b.Names(); len(names) > 0 {
		t.Errorf("%q", names)
	}
	if data, err := b.read(name); err == nil {
		t.Errorf("read %q through a link", data)
	}
	link := Box{filepath.Join(t.TempDir(), "link")}
	check(t, os.Symlink(filepath.Dir(secret), link.Dir))
	check(t, link.Put(id(2), time.Now(), []byte("new")))
	if entries, err := os.ReadDir(filepath.Dir(secret)); err != nil || len(entries) != 1 {
		t.Errorf("written through a link: %v, %v", entries, err)
	}
	full := Box{t.TempDir()}
	for i := range maxEntries + 5 {
		check(t, os.WriteFile(filepath.Join(full.Dir, fmt.Sprint(i)), nil, 0o600))
	}
	check(t, full.Put(id(3), time.Now(), []byte("new")))
	if len(full.Names()) != 1 {
		t.Errorf("%q", full.Names())
	}
}

// A server is a publisher that answers with a status, and keeps what it has accepted.
func server(t *testing.T, status int) (url string, got *[][]byte) {
	t.Helper()
	got = new([][]byte)
	s := httptest.NewServer(handler(status, got))
	t.Cleanup(s.Close)
	return s.URL, got
}

func handler(status int, got *[][]byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == http.StatusAccepted && r.URL.Path == bootreport.Path {
			body, _ := io.ReadAll(r.Body)
			*got = append(*got, body)
		}
		w.Header().Set(gateway.ReportsHeader, gateway.ReportsVersion)
		w.WriteHeader(status)
	})
}

// A webServer answers every request with a status, as a captive portal does.
func webServer(t *testing.T, status int) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(s.Close)
	return s.URL
}

// A server that is not a publisher ends neither the search for one nor the life of a kept document.
func TestAWebServerNeitherTakesNorRejectsADocument(t *testing.T) {
	for _, status := range []int{200, 202, 204, 302, 400, 403, 413} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			web := webServer(t, status)
			good, got := server(t, 202)
			if to, err := newSender(t, web, good).Send(t.Context(), []byte("x")); err != nil || to != good || len(*got) != 1 {
				t.Errorf("%q, %v: the publisher has got %q", to, err, *got)
			}
			b := Box{t.TempDir()}
			check(t, b.Put(id(1), time.UnixMilli(1), []byte("x")))
			refused := func(err error) { t.Errorf("dropped: %v", err) }
			if sent, err := newSender(t, web).Deliver(t.Context(), refused, b); sent > 0 || !errors.Is(err, ErrNoPublisher) || len(b.Names()) != 1 {
				t.Errorf("sent %d, %v; left are %q", sent, err, b.Names())
			}
		})
	}
}

func newSender(t *testing.T, addresses ...string) *Sender {
	t.Helper()
	s := NewSender(addresses, nil, gateway.NewHTTP(nil), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { s.Close() })
	return s
}

func TestTheFirstPublisherThatTakesADocumentGetsIt(t *testing.T) {
	mirror, _ := server(t, 404)
	neighbour, _ := server(t, 405)
	busy, _ := server(t, 503)
	good, got := server(t, 202)
	other, none := server(t, 202)
	s := newSender(t, mirror, neighbour, "http://127.0.0.1:1", busy, good, other)
	for i := range 2 {
		if to, err := s.Send(t.Context(), []byte{byte(i)}); err != nil || to != good {
			t.Errorf("%q, %v", to, err)
		}
	}
	if len(*got) != 2 || len(*none) > 0 || len(s.named) != 4 || s.named[0] != good {
		t.Errorf("got %q and %q; left are %q", *got, *none, s.named)
	}
}

// A neighbour that nobody named can say that it is a publisher. It gets the report too, but never in place of the named one.
func TestAHeardPublisherDoesNotReplaceANamedOne(t *testing.T) {
	mirror, off := webServer(t, 404), "http://127.0.0.1:1"
	busy, _ := server(t, 503)
	strict, _ := server(t, 403)
	for name, tt := range map[string]struct {
		named, heard []string // "good" and "neighbour" take a document
		good, near   int      // how many they get of two Sends of one document
		want         error
	}{
		"both are there":                 {[]string{mirror, "good"}, []string{"neighbour"}, 2, 0, nil},
		"the named one is off":           {[]string{off}, []string{strict, "neighbour"}, 0, 1, cas.ErrUnreachable},
		"the named one is busy":          {[]string{mirror, busy}, []string{"neighbour"}, 0, 1, cas.ErrUnreachable},
		"the named one rejects":          {[]string{strict}, []string{"neighbour"}, 0, 0, gateway.ErrRejected},
		"the heard one rejects":          {[]string{off}, []string{strict}, 0, 0, cas.ErrUnreachable},
		"no named one is a publisher":    {[]string{mirror}, []string{strict, "neighbour"}, 0, 2, nil},
		"no named one, the heard reject": {nil, []string{strict}, 0, 0, gateway.ErrRejected},
	} {
		t.Run(name, func(t *testing.T) {
			good, got := server(t, 202)
			near, nearGot := server(t, 202)
			urls := func(list []string) (out []string) {
				for _, a := range list {
					out = append(out, strings.NewReplacer("good", good, "neighbour", near).Replace(a))
				}
				return out
			}
			sender := NewSender(urls(tt.named), urls(tt.heard), gateway.NewHTTP(nil), slog.New(slog.DiscardHandler))
			defer sender.Close()
			for range 2 {
				if to, err := sender.Send(t.Context(), []byte("x")); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || err == nil && to == "" {
					t.Errorf("%q, %v, want %v", to, err, tt.want)
				}
			}
			if len(*got) != tt.good || len(*nearGot) != tt.near {
				t.Errorf("the named one got %d, the heard one %d", len(*got), len(*nearGot))
			}
			b := Box{t.TempDir()}
			check(t, b.Put(id(1), time.UnixMilli(1), []byte("kept")))
			_, err := sender.Deliver(t.Context(), func(error) {}, b)
			if left := len(b.Names()); (left == 1) != errors.Is(tt.want, cas.ErrUnreachable) {
				t.Errorf("%d kept documents are left, %v", left, err)
			}
		})
	}
}

// A named address that does not answer leaves time for the heard ones.
func TestTheHeardOnesAreTriedIfTheNamedOneIsSilent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts nothing
	check(t, err)
	defer listener.Close()
	near, got := server(t, 202)
	sender := NewSender([]string{"http://" + listener.Addr().String()}, []string{near}, gateway.NewHTTP(nil), slog.New(slog.DiscardHandler))
	defer sender.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := sender.Send(ctx, []byte("x")); !errors.Is(err, cas.ErrUnreachable) || len(*got) != 1 {
		t.Errorf("%v: the heard one got %d", err, len(*got))
	}
}

func TestTheErrorsOfASender(t *testing.T) {
	mirror, _ := server(t, 404)
	strict, _ := server(t, 403)
	busy, _ := server(t, 429)
	for name, tt := range map[string]struct {
		to   []string
		want error
		also error
	}{
		"no address":   {nil, ErrNoPublisher, cas.ErrUnreachable},
		"a mirror":     {[]string{mirror}, ErrNoPublisher, cas.ErrUnreachable},
		"nobody":       {[]string{"http://127.0.0.1:1"}, cas.ErrUnreachable, cas.ErrUnreachable},
		"busy":         {[]string{mirror, busy}, cas.ErrUnreachable, cas.ErrUnreachable},
		"a bad report": {[]string{strict}, gateway.ErrRejected, gateway.ErrRejected},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newSender(t, tt.to...).Send(t.Context(), []byte("x")); !errors.Is(err, tt.want) || !errors.Is(err, tt.also) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAPeerGetsADocumentOverAStream(t *testing.T) {
	listen, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	check(t, err)
	peer, err := p2p.New(t.Context(), p2p.Options{Listen: listen})
	check(t, err)
	defer peer.Close()
	var got [][]byte
	check(t, peer.Serve(handler(202, &got)))
	address := peer.Endpoints(nil).Listen[0]
	document := bytes.Repeat([]byte("x"), bootreport.MaxDocument)
	if to, err := newSender(t, address).Send(t.Context(), document); err != nil || to != address || len(got) != 1 || !bytes.Equal(got[0], document) {
		t.Errorf("%q, %v: %d documents", to, err, len(got))
	}
}

func TestDeliverEmptiesABox(t *testing.T) {
	good, got := server(t, 202)
	strict, _ := server(t, 400)
	off := "http://127.0.0.1:1"
	for name, tt := range map[string]struct {
		to               string
		sent, left, gone int
		want             error
	}{
		"a publisher":        {good, 3, 0, 0, nil},
		"one that is strict": {strict, 0, 0, 3, nil},
		"one that is off":    {off, 0, 3, 0, cas.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			*got = nil
			b, refused := Box{t.TempDir()}, 0
			for i := range 3 {
				check(t, b.Put(id(i), time.UnixMilli(int64(i)), []byte{byte(i)}))
			}
			sent, err := newSender(t, tt.to).Deliver(t.Context(), func(error) { refused++ }, Box{filepath.Join(b.Dir, "missing")}, b)
			if sent != tt.sent || refused != tt.gone || len(b.Names()) != tt.left || !errors.Is(err, tt.want) || len(*got) != tt.sent {
				t.Errorf("sent %d, refused %d, left %q, got %d, %v", sent, refused, b.Names(), len(*got), err)
			}
		})
	}
}

// A publisher that restarts behind a proxy looks as a web server for a while.
func TestAnAddressIsTriedAgain(t *testing.T) {
	var off atomic.Bool
	off.Store(true)
	publisher := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if off.Load() {
			http.NotFound(w, r)
			return
		}
		handler(http.StatusAccepted, new([][]byte)).ServeHTTP(w, r)
	}))
	t.Cleanup(publisher.Close)
	s := newSender(t, publisher.URL)
	for range 2 {
		if _, err := s.Send(t.Context(), []byte("x")); !errors.Is(err, ErrNoPublisher) {
			t.Errorf("got %v", err)
		}
	}
	off.Store(false)
	if _, err := s.Send(t.Context(), []byte("x")); !errors.Is(err, ErrNoPublisher) {
		t.Errorf("before Retry: %v", err)
	}
	for range 2 {
		s.Retry()
		if to, err := s.Send(t.Context(), []byte("x")); err != nil || to != publisher.URL || len(s.named) != 1 {
			t.Errorf("%q, %v, %q", to, err, s.named)
		}
	}
}

func TestUntilEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Until(ctx, func() error {
		n++
		cancel()
		return cas.ErrUnreachable
	})
	if n != 1 || !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%d times, %v", n, err)
	}
}
