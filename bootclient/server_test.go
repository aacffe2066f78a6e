package bootclient_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// A server is a publisher on loopback whose answers a test can change.
type server struct {
	*httptest.Server
	blocks atomic.Int64 // requests for blocks
	looked event        // the first request for a block
	bent   event        // the first request for a block that is not metadata
	bend   func(w http.ResponseWriter, r *http.Request, good http.Handler)
}

// An event happens once.
type event struct {
	once, done sync.Once
	c          chan struct{}
}

func (e *event) happened() chan struct{} {
	e.once.Do(func() { e.c = make(chan struct{}) })
	return e.c
}

func (e *event) happens() {
	e.done.Do(func() { close(e.happened()) })
}

// after delays all answers of a server until an event. Without it, on a busy computer one
// source could win the short grace before the other has begun.
func (s *server) after(e *event) *server {
	good := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		waiting(e)(w, req, good)
	})
	return s
}

// waiting delays answers until an event.
func waiting(e *event) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		select {
		case <-e.happened():
			good.ServeHTTP(w, req)
		case <-req.Context().Done():
		}
	}
}

// serve starts a gateway of a repository. bend, if not nil, answers the requests for leaves and
// inner nodes.
func serve(t *testing.T, r *repo, bend func(w http.ResponseWriter, req *http.Request, good http.Handler)) *server {
	t.Helper()
	s := &server{bend: bend}
	s.Server = httptest.NewServer(s.handler(r))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *server) handler(r *repo) http.Handler {
	record := r.record
	good := gateway.Handler(gateway.Options{Source: r.store, IPNS: func(_ context.Context, name string) ([]byte, error) {
		if name != r.ipns {
			return nil, fmt.Errorf("name %q: %w", name, fs.ErrNotExist)
		}
		return record, nil
	}})
	meta := r.metadata()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := strings.TrimPrefix(req.URL.Path, "/ipfs/")
		if name != req.URL.Path {
			s.blocks.Add(1)
			s.looked.happens()
			if s.bend != nil && !meta[name] {
				s.bent.happens()
				s.bend(w, req, good)
				return
			}
		}
		good.ServeHTTP(w, req)
	})
}

// metadata lists the blocks of the metadata directory.
func (r *repo) metadata() map[string]bool {
	out := map[string]bool{r.directory.String(): true}
	for _, data := range r.files {
		out[cas.Sum(cid.Raw, data).String()] = true
	}
	return out
}

// flip sends every leaf with one byte changed.
func flip(w http.ResponseWriter, req *http.Request, good http.Handler) {
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, req)
	body := bytes.Clone(rec.Body.Bytes())
	body[len(body)/2] ^= 1
	w.Write(body)
}

// stall sends the first bytes of a leaf and then nothing.
func stall(w http.ResponseWriter, req *http.Request, good http.Handler) {
	w.Write([]byte("abc"))
	http.NewResponseController(w).Flush()
	select {
	case <-req.Context().Done():
	case <-time.After(time.Minute):
	}
}

func broken(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "on fire", http.StatusInternalServerError)
}

func lacking(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "not found", http.StatusNotFound)
}

// endless sends bytes without end.
func endless(w http.ResponseWriter, req *http.Request, _ http.Handler) {
	for req.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// trickle sends a byte from time to time.
func trickle(w http.ResponseWriter, req *http.Request, _ http.Handler) {
	for req.Context().Err() == nil {
		if _, err := w.Write([]byte{1}); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-req.Context().Done():
		}
	}
}

func empty(http.ResponseWriter, *http.Request, http.Handler) {}

// node starts a publisher's peer on loopback that serves a repository over streams
// only. It returns its address.
func node(t *testing.T, opts p2p.Options, h http.Handler) (*p2p.Node, string) {
	t.Helper()
	var err error
	opts.Listen, err = p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	ok(t, err)
	n, err := p2p.New(t.Context(), opts)
	ok(t, err)
	t.Cleanup(func() { n.Close() })
	if h != nil {
		ok(t, n.Serve(h))
	}
	for _, a := range n.Addrs() {
		if strings.HasPrefix(a.String(), "/ip4/127.0.0.1/") {
			return n, a.String()
		}
	}
	t.Fatalf("no loopback address in %v", n.Addrs())
	return nil, ""
}
