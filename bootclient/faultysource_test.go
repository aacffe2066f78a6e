package bootclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// The phases of a boot, by the kind of request.
var phases = []string{"record", "folder", "metadata", "inner nodes", "leaves"}

// phaseOf returns the phase of a request.
func (r *repo) phaseOf(meta map[string]bool, req *http.Request) string {
	name, block := strings.CutPrefix(req.URL.Path, "/ipfs/")
	id, err := cid.Decode(strings.TrimSuffix(name, "/"))
	switch {
	case strings.HasPrefix(req.URL.Path, "/ipns/"):
		return "record"
	case !block || err != nil:
		return ""
	case id.Equals(r.directory):
		return "folder"
	case meta[id.String()]:
		return "metadata"
	case id.Type() == cid.DagProtobuf && req.URL.Query().Get("format") != "car":
		return "inner nodes"
	}
	return "leaves"
}

// A fault is what a source does in one phase, and the exit code of a machine without another
// source: for blocks, and for the record where that differs.
type fault struct {
	bend   bend
	block  int
	record int
}

const ok0, untrusted, away, corrupt = cli.ExitOK, cli.ExitUntrusted, cli.ExitNotFound, cli.ExitCorrupt

var faults = map[string]fault{
	"flips":                    {altered(func(b []byte) []byte { b[min(len(b)/2, 10)] ^= 1; return b }), corrupt, untrusted},
	"cuts":                     {altered(func(b []byte) []byte { return b[:len(b)/2] }), corrupt, away},
	"empties":                  {altered(func([]byte) []byte { return nil }), corrupt, away},
	"adds a byte":              {altered(func(b []byte) []byte { return append(b, 0) }), corrupt, away},
	"adds a megabyte":          {altered(func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }), corrupt, away},
	"zeros":                    {altered(func(b []byte) []byte { return make([]byte, len(b)) }), corrupt, away},
	"endless":                  {endless, corrupt, away},
	"breaks off":               {truncated, away, away},
	"closes":                   {func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, away, away},
	"stalls":                   {stall, away, away},
	"does not answer":          {func(_ http.ResponseWriter, req *http.Request, _ http.Handler) { <-req.Context().Done() }, away, away},
	"200 with a page":          {answers(200, "text/html", "<!DOCTYPE html><title>Welcome</title>"), away, away},
	"200 with JSON":            {answers(200, "application/json", `{"status":"starting"}`), away, away},
	"200 with text":            {answers(200, "text/plain", "no record at all"), away, away},
	"401":                      {answers(401, "text/html", "<html>who are you?</html>"), away, away},
	"403 with a page":          {answers(403, "text/html", "<html>no</html>"), away, away},
	"404 with JSON":            {answers(404, "application/json", `{}`), away, away},
	"410":                      {answers(410, "text/plain", "gone"), away, away},
	"429":                      {answers(429, "text/plain", "slower"), away, away},
	"429 with Retry-After":     {answers(429, "text/plain", "slower", "Retry-After", "1"), away, away},
	"429 with a day":           {answers(429, "text/plain", "slower", "Retry-After", "86400"), away, away},
	"500 with text":            {answers(500, "text/plain", "on fire"), away, away},
	"502 with a page":          {answers(502, "text/html", "<html>bad gateway</html>"), away, away},
	"503 with Retry-After":     {answers(503, "text/html", "<html>back soon</html>", "Retry-After", "1"), away, away},
	"redirects to itself":      {moved, ok0, ok0},
	"redirects to a dead host": {answers(302, "text/plain", "", "Location", "http://127.0.0.2:9/"), away, away},
	"redirects to a file":      {answers(302, "text/plain", "", "Location", "file:///etc/passwd"), away, away},
	"redirects in a circle": {func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		http.Redirect(w, req, req.URL.String(), http.StatusFound)
	}, away, away},
	"redirects to nowhere":       {answers(301, "text/plain", ""), away, away},
	"redirects to another's 404": {answers(307, "text/plain", "", "Location", "/nothing"), away, away},
}

// altered changes the body of an answer.
func altered(change func([]byte) []byte) bend {
	return func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, req)
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		w.Write(change(bytes.Clone(rec.Body.Bytes())))
	}
}

func answers(status int, kind, body string, header ...string) bend {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", kind)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

// moved redirects to a longer path of the same server, which then answers.
func moved(w http.ResponseWriter, req *http.Request, good http.Handler) {
	at := *req.URL
	if path, here := strings.CutPrefix(at.Path, "/moved"); here {
		again := req.Clone(req.Context())
		again.URL.Path = path
		good.ServeHTTP(w, again)
		return
	}
	at.Path = "/moved" + at.Path
	http.Redirect(w, req, at.String(), http.StatusPermanentRedirect)
}

// The states of the honest source.
var honesty = []string{"absent", "beside", "late", "down for a while", "never there"}

// A gate is a listener that can be down. It closes every connection then.
type gate struct {
	net.Listener
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		down := g.down
		g.conns = append(g.conns, c)
		g.mu.Unlock()
		if !down {
			return c, nil
		}
		c.Close()
	}
}

func (g *gate) set(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
	if down {
		for _, c := range g.conns {
			c.Close()
		}
		g.conns = nil
	}
}

// outage is how long an honest source is down after the fault.
const outage = 400 * time.Millisecond

// A cell is one boot of the table.
type cell struct {
	repo         *repo
	meta         map[string]bool
	phase, fault string
	honest       string
	peer         bool  // the faulty source is a peer over libp2p, else a mirror
	shown        event // the fault was shown
}

// faultyHandler is faulty in one phase.
func (c *cell) faultyHandler(good http.Handler) http.Handler {
	bend := faults[c.fault].bend
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/moved/") || c.repo.phaseOf(c.meta, req) == c.phase {
			c.shown.happens()
			bend(w, req, good)
			return
		}
		good.ServeHTTP(w, req)
	})
}

// faultySource starts the faulty source and adds it to a configuration. It returns its name.
func (c *cell) faultySource(ctx context.Context, cfg *bootclient.Config, good http.Handler) (name string, end func(), err error) {
	if !c.peer {
		s := httptest.NewServer(c.faultyHandler(good))
		cfg.Mirrors = append(cfg.Mirrors, s.URL)
		return s.URL, func() { closeServer(s) }, nil
	}
	listen, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	if err != nil {
		return "", nil, err
	}
	n, err := p2p.New(ctx, p2p.Options{Listen: listen})
	if err != nil {
		return "", nil, err
	}
	for _, a := range n.Addrs() {
		if strings.HasPrefix(a.String(), "/ip4/127.0.0.1/") {
			cfg.Peers = []string{a.String()}
		}
	}
	return n.ID().String(), func() { n.Close() }, n.Serve(c.faultyHandler(good))
}

// honestServer answers in the phase only after the faulty source, so that every fault is shown.
func (c *cell) honestServer(good http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if c.repo.phaseOf(c.meta, req) == c.phase {
			waiting(&c.shown)(w, req, good)
			return
		}
		good.ServeHTTP(w, req)
	}))
	g := &gate{Listener: s.Listener, down: c.honest == "late" || c.honest == "never there"}
	s.Listener = g
	s.Start()
	if c.honest == "late" || c.honest == "down for a while" {
		go func() {
			<-c.shown.happened()
			g.set(true)
			time.Sleep(outage)
			g.set(false)
		}()
	}
	return s
}

// want is the expected exit code.
func (c *cell) want() int {
	switch {
	case c.honest != "absent" && c.honest != "never there":
		return ok0
	case c.phase == "record":
		return faults[c.fault].record
	}
	return faults[c.fault].block
}

// run boots a machine and checks the outcome.
func (c *cell) run(ctx context.Context, mode modes.Mode) error {
	good := (&server{}).handler(c.repo)
	console := &lines{}
	cfg := bootclient.Config{
		Root: c.repo.root, Channel: "stable", Arch: "x86_64", Mode: mode,
		Timeout: time.Hour, Patience: time.Hour, Report: report.New(time.Now(), console),
	}
	faulty, end, err := c.faultySource(ctx, &cfg, good)
	if err != nil {
		return err
	}
	defer end()
	if c.honest != "absent" {
		honest := c.honestServer(good)
		defer closeServer(honest)
		cfg.Mirrors = append(cfg.Mirrors, honest.URL)
	}
	c.patience(&cfg)
	cfg.Hurry(5)
	sink := &memorySink{files: map[string]*memoryFile{}}
	_, err = bootclient.Run(ctx, cfg, sink)
	switch got := cli.Code(err); {
	case got != c.want():
		return fmt.Errorf("exit code %d, want %d: %w\n%s", got, c.want(), errors.Join(err), console)
	case err == nil:
		return sink.compare(c.repo)
	case !strings.Contains(err.Error(), faulty):
		return fmt.Errorf("the error does not name the source: %w\n%s", err, console)
	}
	return nil
}

// patience shortens the patience if only the time ends the boot. If a refusal must come before
// that, it leaves time for a busy computer.
func (c *cell) patience(cfg *bootclient.Config) {
	end := time.Duration(0)
	switch want := c.want(); {
	case want == away:
		end = 1500 * time.Millisecond
	case want != ok0 && c.honest == "never there":
		end = 20 * time.Second
	}
	if end > 0 {
		cfg.Patience = end
		if c.phase != "inner nodes" && c.phase != "leaves" {
			cfg.Timeout = end
		}
	}
}

func closeServer(s *httptest.Server) {
	s.CloseClientConnections()
	s.Close()
}

// lines is a console.
type lines struct {
	mu    sync.Mutex
	b     strings.Builder
	waits map[string]chan struct{} // by text
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.wake()
	return l.b.Write(p)
}

func (l *lines) wake() {
	for text, c := range l.waits {
		if strings.Contains(l.b.String(), text) {
			close(c)
			delete(l.waits, text)
		}
	}
}

// prints returns a channel that is closed once the console has printed a text.
func (l *lines) prints(text string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{})
	l.waits = map[string]chan struct{}{text: c}
	l.wake()
	return c
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A memorySink keeps a release in memory.
type memorySink struct {
	files     map[string]*memoryFile
	committed bool
}

type memoryFile struct {
	mu   sync.Mutex
	data []byte
}

func (s *memorySink) Open(role string, size int64) (fetch.Target, error) {
	f := &memoryFile{data: make([]byte, size)}
	s.files[role] = f
	return f, nil
}

func (s *memorySink) Commit(*manifest.Verified, *report.Report) error {
	s.committed = true
	return nil
}

func (s *memorySink) Abort() {}

func (f *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return copy(f.data[at:], p), nil
}

func (f *memoryFile) ReadAt(p []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return copy(p, f.data[at:]), nil
}

func (s *memorySink) compare(r *repo) error {
	if !s.committed {
		return errors.New("nothing was committed")
	}
	for role, want := range r.signed {
		if f := s.files[role]; f == nil || !bytes.Equal(f.data, want) {
			return fmt.Errorf("%s is not what was signed", role)
		}
	}
	return nil
}

// Each phase of a boot × each fault of one source × each state of an honest source beside it.
// With a reachable honest source the machine boots. Without one the exit code is that of the
// worst fault, and the error names the source.
func TestAFaultySourceBesideAnHonestOne(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	r.release("small", map[string][]byte{"kernel": content(21, 20<<10), "initramfs": content(23, 30<<10), "rootfs": content(22, 900<<10)})
	mode, err := modes.Load("private")
	ok(t, err)
	meta := r.metadata()
	var cells []*cell
	add := func(fault string, honesty []string, peer bool) {
		for _, phase := range phases {
			for _, honest := range honesty {
				cells = append(cells, &cell{repo: r, meta: meta, phase: phase, fault: fault, honest: honest, peer: peer})
			}
		}
	}
	for _, fault := range slices.Sorted(maps.Keys(faults)) {
		add(fault, honesty, false)
	}
	for _, fault := range []string{"flips", "stalls", "closes", "200 with text", "404 with JSON", "429 with Retry-After", "redirects in a circle"} {
		add(fault, []string{"absent", "down for a while"}, true)
	}
	slots := make(chan struct{}, 48)
	var tasks sync.WaitGroup
	for i, c := range cells {
		if testing.Short() && i%7 != 0 {
			continue
		}
		slots <- struct{}{}
		tasks.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if err := c.run(ctx, mode); err != nil {
				t.Errorf("%s, %s (peer: %t), an honest source %s: %v", c.phase, c.fault, c.peer, c.honest, err)
			}
		})
	}
	tasks.Wait()
	t.Logf("%d cells", len(cells))
}
