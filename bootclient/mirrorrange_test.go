package bootclient_test

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// A staticMirror is a web server with the files of an export.
type staticMirror struct {
	*httptest.Server
	ranges, blocks atomic.Int32 // requests for a range of a target, and for a leaf by its CID
	wrongBlocks    bend         // answers requests for leaves; nil for right answers
}

// serveStatic serves a release with its targets. With bend, it answers the requests for targets.
func serveStatic(t *testing.T, r *repo, bend bend) *staticMirror {
	t.Helper()
	folder := t.TempDir()
	writeMirror(t, r, folder)
	for role, data := range r.signed {
		sum := sha256.Sum256(data)
		dir, name := path.Split("stable/x86_64/" + role)
		dir = filepath.Join(folder, "tuf/targets", dir)
		ok(t, os.MkdirAll(dir, 0o755))
		ok(t, os.WriteFile(filepath.Join(dir, hex.EncodeToString(sum[:])+"."+name), data, 0o644))
	}
	s, files, meta := &staticMirror{}, http.FileServer(http.Dir(folder)), r.metadata()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		c, block := strings.CutPrefix(req.URL.Path, "/ipfs/")
		switch {
		case strings.HasPrefix(req.URL.Path, "/tuf/targets/"):
			s.ranges.Add(1)
			if bend != nil {
				bend(w, req, files)
				return
			}
		case block && !meta[c] && req.URL.Query().Get("format") == "raw":
			s.blocks.Add(1)
			if s.wrongBlocks != nil {
				s.wrongBlocks(w, req, files)
				return
			}
		}
		files.ServeHTTP(w, req)
	}))
	t.Cleanup(func() { closeServer(s.Server) })
	return s
}

// closeAfter sends the first n bytes of a good answer and then closes the connection.
func closeAfter(n int) bend {
	return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		rewritten(func(_ http.Header, body []byte) []byte { return body[:min(n, len(body))] })(w, req, good)
		panic(http.ErrAbortHandler)
	}
}

// rewritten sends a good answer after a change of its header and its body.
func rewritten(change func(head http.Header, body []byte) []byte) bend {
	return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, req)
		maps.Copy(w.Header(), rec.Header())
		body := change(w.Header(), rec.Body.Bytes())
		w.WriteHeader(rec.Code)
		w.Write(body)
	}
}

// relabelled sends a good answer with another header field.
func relabelled(name, value string) bend {
	return rewritten(func(head http.Header, body []byte) []byte { head.Set(name, value); return body })
}

func TestAStaticMirrorSendsRangesOfFiles(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serveStatic(t, r, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.boots(r)
	// three inner nodes, and single leaves at the ends
	if ranges, blocks := s.ranges.Load(), s.blocks.Load(); ranges < 3 || ranges > 30 || blocks > 8 {
		t.Errorf("%d ranges, %d blocks", ranges, blocks)
	}
	if got := m.source(s.URL); len(got.Faults) > 0 {
		t.Errorf("the report says of the mirror: %+v", got)
	}
}

// Servers that have no ranges serve the release block by block, and are asked for few ranges.
func TestAMirrorWithoutRangesSendsBlocks(t *testing.T) {
	for name, bend := range map[string]bend{
		"no targets":      answers(http.StatusNotFound, "text/plain", "no such file"),
		"not allowed":     answers(http.StatusForbidden, "text/plain", "no"),
		"not satisfiable": answers(http.StatusRequestedRangeNotSatisfiable, "text/plain", ""),
		"a login page":    answers(http.StatusOK, "text/html", "<!DOCTYPE html><title>Log in</title>"),
		"the whole file": func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			req.Header.Del("Range")
			good.ServeHTTP(w, req)
		},
		"compressed":    relabelled("Content-Encoding", "gzip"),
		"another range": relabelled("Content-Range", "bytes 1-2/3"),
		"no label":      relabelled("Content-Range", ""),
		"a page in the ranges": rewritten(func(head http.Header, body []byte) []byte {
			head.Set("Content-Type", "text/html")
			copy(body, "<html>")
			return body
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			s := serveStatic(t, r, bend)
			m := newMachine(t, r, "private")
			m.cfg.Mirrors = []string{s.URL}
			m.boots(r)
			if ranges, blocks := s.ranges.Load(), s.blocks.Load(); ranges < 1 || ranges > 24 || blocks < 50 {
				t.Errorf("%d ranges, %d blocks", ranges, blocks)
			}
			if got := m.source(s.URL); len(got.Faults) > 0 {
				t.Errorf("the report says of the mirror: %+v", got)
			}
		})
	}
}

// A server or a proxy whose ranges fail, while its single blocks do not, serves the release block by block.
func TestAMirrorWhoseRangesFailSendsBlocks(t *testing.T) {
	for name, bend := range map[string]bend{
		"broken":          answers(http.StatusInternalServerError, "text/plain", "no"),
		"a bad gateway":   answers(http.StatusBadGateway, "text/plain", "no"),
		"a gateway timed": answers(http.StatusGatewayTimeout, "text/plain", "no"),
		"an empty answer": closeAfter(0),
		"resets": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			conn, _, err := http.NewResponseController(w).Hijack()
			ok(t, err)
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		},
		"hangs": func(_ http.ResponseWriter, req *http.Request, _ http.Handler) { <-req.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			s := serveStatic(t, r, bend)
			m := newMachine(t, r, "private")
			m.cfg.Mirrors, m.cfg.Patience = []string{s.URL}, 30*time.Second
			m.boots(r)
			if ranges, blocks := s.ranges.Load(), s.blocks.Load(); ranges < 3 || ranges > 24 || blocks < 50 {
				t.Errorf("%d ranges, %d blocks", ranges, blocks)
			}
		})
	}
}

// A server that sends a part of each range makes progress.
func TestAMirrorThatCutsRangesShort(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serveStatic(t, r, closeAfter(600<<10))
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.boots(r)
}

// A mirror whose whole file is damaged serves the release block by block. The report names the fault.
func TestAMirrorWithADamagedFileSendsBlocks(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serveStatic(t, r, rewritten(func(_ http.Header, body []byte) []byte { body[len(body)/2] ^= 1; return body }))
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.boots(r)
	if ranges, blocks := s.ranges.Load(), s.blocks.Load(); ranges < 1 || ranges > 24 || blocks < 50 {
		t.Errorf("%d ranges, %d blocks", ranges, blocks)
	}
	if got := m.source(s.URL); got.Banned || len(got.Faults) == 0 {
		t.Errorf("the report says of the mirror: %+v", got)
	}
}

// A mirror whose file and blocks are wrong is banned.
func TestAMirrorWithWrongFilesAndBlocksIsBanned(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	wrong := rewritten(func(_ http.Header, body []byte) []byte { body[len(body)/2] ^= 1; return body })
	bad := serveStatic(t, r, wrong)
	bad.wrongBlocks = wrong
	m := newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Timeout = []string{bad.URL}, time.Minute
	m.refuses(cli.ExitCorrupt, bad.URL)

	good := serveStatic(t, r, nil)
	m = newMachine(t, r, "private")
	m.cfg.Mirrors = []string{bad.URL, good.URL}
	m.boots(r)
}

// An answer that is shorter than its range says is no lie.
func TestAMirrorWithAShortAnswer(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serveStatic(t, r, rewritten(func(head http.Header, body []byte) []byte {
		body = body[:len(body)*3/4]
		head.Set("Content-Length", strconv.Itoa(len(body)))
		return body
	}))
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.boots(r)
	if m.source(s.URL).Banned {
		t.Errorf("the report says of the mirror: %+v", m.source(s.URL))
	}
}
