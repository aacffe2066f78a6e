package bootclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	user     = "operator"
	password = "pass word/s3cret"
)

// with returns the URL with the credentials in it.
func with(t *testing.T, origin string) string {
	t.Helper()
	u, err := url.Parse(origin)
	ok(t, err)
	u.User = url.UserPassword(user, password)
	return u.String()
}

// locked answers requests with the credentials.
func locked(w http.ResponseWriter, req *http.Request, good http.Handler) {
	if u, p, _ := req.BasicAuth(); u != user || p != password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	good.ServeHTTP(w, req)
}

func TestAMirrorWithAUserAndAPassword(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, locked)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{with(t, s.URL)}
	m.boots(r)

	m = newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Timeout, m.cfg.Patience = []string{s.URL}, answerTime, answerTime
	m.refuses(cli.ExitNotFound, "status 401 Unauthorized", "check user and password")
}

// No output contains the credentials of a mirror, whatever the mirror does.
func TestNothingShowsTheCredentialsOfAMirror(t *testing.T) {
	for name, row := range badPeers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			showsNoCredentials(t, r, serve(t, r, row.bend).URL)
		})
	}
	r := newRepo(t, "us", manifest.Discovery{})
	gone := serve(t, r, nil)
	gone.Close()
	for name, mirror := range map[string]string{
		"honest": serve(t, r, nil).URL, "closed port": gone.URL, "not a port": "http://127.0.0.1:99999",
		"no address": "ftp://127.0.0.1", "a query": "http://127.0.0.1/?x=y", "a file": "file:///srv/mirror", "not TLS": strings.Replace(gone.URL, "http:", "https:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			showsNoCredentials(t, r, mirror)
		})
	}
}

func showsNoCredentials(t *testing.T, r *repo, mirror string) {
	t.Helper()
	m := newMachine(t, r, "private")
	var said bytes.Buffer
	m.cfg.Report = report.New(time.Now(), &said)
	m.cfg.Timeout, m.cfg.Patience = 3*time.Second, 3*time.Second
	garbled := strings.Replace(mirror, "://", "://"+user+":"+password+"@", 1) // not escaped
	m.cfg.Mirrors = []string{with(t, mirror), garbled}
	err := m.fetch(t.Context())
	report, jerr := json.Marshal(m.cfg.Report)
	ok(t, jerr)
	ok(t, m.cfg.Report.Words(&said))
	said.Write(report)
	for _, e := range []error{err, m.cfg.Check(), bootclient.Config{Mirrors: []string{garbled}}.Check()} {
		if e != nil {
			io.WriteString(&said, e.Error())
		}
	}
	for _, secret := range []string{user, "s3cret"} {
		if strings.Contains(said.String(), secret) {
			t.Errorf("%q was said:\n%s", secret, &said)
		}
	}
}

// A mirror that is a folder on this machine, as phase-publish export writes it.
func TestAMirrorThatIsAFolder(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	folder := filepath.Join(t.TempDir(), "a mirror")
	writeMirror(t, r, folder)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{(&url.URL{Scheme: "file", Path: folder}).String()}
	ok(t, m.cfg.Check())
	m.boots(r)

	ok(t, os.RemoveAll(filepath.Join(folder, "ipfs")))
	m = newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Timeout = []string{"file://" + folder}, time.Second
	m.refuses(cli.ExitNotFound, folder)
}

func writeMirror(t *testing.T, r *repo, folder string) {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Join(folder, "ipfs"), 0o755))
	ok(t, os.MkdirAll(filepath.Join(folder, "ipns"), 0o755))
	ok(t, os.WriteFile(filepath.Join(folder, "ipns", r.ipns), r.record, 0o644))
	blocks := writtenBlocks{r.store, filepath.Join(folder, "ipfs")}
	entries, err := cas.ReadDir(t.Context(), blocks, r.directory)
	ok(t, err)
	for _, e := range entries {
		ok(t, cas.Copy(t.Context(), io.Discard, blocks, e.CID, int64(e.Tsize)))
	}
	for role, c := range r.cids {
		ok(t, cas.Copy(t.Context(), io.Discard, blocks, c, int64(len(r.signed[role]))))
	}
}

// writtenBlocks writes the blocks that are read from a source to files.
type writtenBlocks struct {
	cas.Source
	folder string
}

func (w writtenBlocks) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := w.Source.Block(ctx, c)
	if err != nil {
		return nil, err
	}
	return data, os.WriteFile(filepath.Join(w.folder, c.String()), data, 0o644)
}

// Mirrors are asked through the configured proxy, unless the mode has its own.
func TestMirrorsAreAskedThroughTheProxy(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	origin, err := url.Parse(serve(t, r, nil).URL)
	ok(t, err)
	var asked sync.Map
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		asked.Store(p.In.Host, true)
		p.SetURL(origin)
	}})
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	ok(t, err)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Proxy = []string{"http://mirror.invalid"}, http.ProxyURL(at)
	m.boots(r)
	if _, was := asked.Load("mirror.invalid"); !was {
		t.Error("the proxy was not asked for mirror.invalid")
	}

	lo := net.Interface{Name: "lo", Flags: net.FlagUp | net.FlagLoopback}
	m = newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Proxy = []string{"http://mirror.invalid"}, http.ProxyURL(at)
	m.cfg.Interfaces(lo) // a sandbox without other network access
	m.boots(r)

	m = newMachine(t, r, "private")
	m.cfg.Mode.Proxy = proxy.URL
	m.cfg.Interfaces(lo)
	m.cfg.Mirrors = []string{"http://mirror.invalid"}
	m.cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("not this one") }
	m.boots(r)
}

// serveSOCKS serves SOCKS5 (RFC 1928): it connects every name to the server at to, and sends the names.
func serveSOCKS(t *testing.T, to string) (proxy *url.URL, names <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	asked := make(chan string, 1000)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				head := make([]byte, 3+5) // method negotiation without a password, then a request with a name
				if _, err := io.ReadFull(conn, head[:3]); err != nil {
					return
				}
				_, _ = conn.Write([]byte{5, 0})
				if _, err := io.ReadFull(conn, head[3:]); err != nil || head[6] != 3 {
					asked <- "an address"
					return
				}
				name := make([]byte, int(head[7])+2)
				if _, err := io.ReadFull(conn, name); err != nil {
					return
				}
				asked <- string(name[:len(name)-2])
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				go func() { _, _ = io.Copy(out, conn) }()
				_, _ = io.Copy(conn, out)
			}()
		}
	}()
	return &url.URL{Scheme: "socks5", Host: l.Addr().String()}, asked
}

// The name of an onion service reaches a SOCKS5 proxy, and no resolver. Without one the mirror is not used.
func TestAnOnionServiceIsAskedThroughSOCKSOnly(t *testing.T) {
	onion := strings.Repeat("a", 56) + ".onion"
	r := newRepo(t, "us", manifest.Discovery{})
	origin, err := url.Parse(serve(t, r, nil).URL)
	ok(t, err)
	socks, names := serveSOCKS(t, origin.Host)

	m := newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Proxy = []string{"http://" + onion}, http.ProxyURL(socks)
	m.boots(r)
	if got := <-names; got != onion {
		t.Errorf("the proxy was asked for %q", got)
	}

	m = newMachine(t, r, "tor")
	m.cfg.Mode.Proxy, m.cfg.Mirrors = socks.String(), []string{"http://" + onion}
	m.boots(r)

	for name, proxy := range map[string]func(*http.Request) (*url.URL, error){"no proxy": nil, "an HTTP proxy": http.ProxyURL(origin)} {
		m = newMachine(t, r, "private")
		m.cfg.Mirrors, m.cfg.Proxy, m.cfg.Timeout = []string{"http://" + onion}, proxy, time.Second
		m.refuses(cli.ExitNotFound)
		if !strings.Contains(m.said(), "an onion service can only be reached through Tor; use boot mode tor") {
			t.Errorf("%s: the report has %q", name, m.said())
		}
	}
}

// A mirror may redirect.
func TestAMirrorThatRedirects(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	behind := serve(t, r, nil)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, behind.URL+req.RequestURI, http.StatusMovedPermanently)
	}))
	defer front.Close()
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{front.URL}
	m.boots(r)
	if s := m.source(front.URL); s.Banned || len(s.Faults) > 0 {
		t.Errorf("%+v", s)
	}
}

// A mirror that refuses runs sends every block.
func TestAMirrorThatRefusesRuns(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]http.HandlerFunc{
		"403":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"400":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
		"502":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a web page": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<!doctype html>blocked") },
		"nothing":    func(http.ResponseWriter, *http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t, "us", manifest.Discovery{})
			s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
				if req.URL.Query().Get("format") == "car" {
					refuse(w, req)
					return
				}
				good.ServeHTTP(w, req)
			})
			m := newMachine(t, r, "private")
			m.cfg.Mirrors = []string{s.URL}
			m.boots(r)
			if s := m.source(s.URL); s.Banned || len(s.Faults) > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// The lease of a DHCP server may come after the search has begun. The only other mirror has no answer.
func TestAMirrorThatADHCPServerNamesDuringTheSearch(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	good, named := serve(t, r, nil), make(chan struct{})
	lease := sync.OnceFunc(func() { close(named) })
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		lease()
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{busy.URL}
	m.cfg.Heard = func() ([]string, <-chan struct{}) {
		select {
		case <-named:
			return []string{good.URL}, nil
		default:
			return nil, named
		}
	}
	m.boots(r)
}
