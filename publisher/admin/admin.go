package admin

import (
	"cmp"
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

// A State is what a publisher knows of itself at one moment.
type State struct {
	Peer      string
	Started   time.Time
	Peers     int // connected libp2p peers
	DHTPeers  int
	HTTPConns int

	IPNS      string // name that points to the head
	Head      string // CID of the metadata folder that is served
	Timestamp int64  // version
	Loaded    time.Time
	RecordAge time.Duration // of the IPNS record
	Root      *manifest.Root
	Files     repo.Files // of the head
	Verdict   repo.Verdict
	Releases  []manifest.Release
	Problems  []string // for which /healthz is not 200

	Blocks, Bytes int64 // of the store
	Sent          []Sent
}

// Sent is how many bytes of bodies a daemon has sent since its start.
type Sent struct {
	Via, Kind string // labels of phasepublish_sent_bytes_total
	Bytes     int64
}

// A Receipt is what a receipt that was verified says of a job. Its signature shows only that the machine with this key
// has signed it.
type Receipt struct {
	Machine  string // public key, 64 hex digits
	Job      string // name
	Channel  string // of the release of the machine, if it had one
	Release  string
	Reason   string // exit, or why the job was ended
	ExitCode int64
	Started  time.Time // zero if nothing ran
	Took     time.Duration
}

// Options of a Page.
type Options struct {
	Config
	State   func(context.Context) (State, error)
	Changed func() <-chan struct{} // closed when another head is served
	Reports *reports.Store         // nil if no boot reports are taken
	Now     func() time.Time       // nil: time.Now
	Log     *slog.Logger           // nil: silent
}

// A Page answers the requests of operators.
type Page struct {
	Options
	guard    *guard
	tls      *tls.Config
	mirrors  *mirrors
	receipts receiptCache
	events   *events

	state   shared[State]
	running shared[[]reports.Running]
	read    [2]shared[bootreport.Share] // by the last boots of unverified and of accepted machines
}

//go:embed assets
var assets embed.FS

// New makes a page. It reads the files of the configuration. The error wraps fs.ErrInvalid for a configuration that
// shows the page to everybody.
func New(o Options) (*Page, error) {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.Check(); err != nil {
		return nil, err
	}
	p := &Page{Options: o, mirrors: newMirrors(o.Mirrors, o.Now), events: newEvents()}
	var err error
	if p.guard, err = newGuard(o.Config, o.Now); err != nil {
		return nil, err
	}
	if p.tls, err = o.TLS(); err != nil {
		return nil, err
	}
	if p.guard.token != nil && !p.guard.loopback && p.tls == nil {
		o.Log.Warn("admin page: the token is sent unencrypted", "addr", o.Addr, "remedy", "name --admin-cert and --admin-key, or reach it through a tunnel")
	}
	return p, nil
}

// Origins are the URLs of the page on a listener. Those that other machines can reach come first.
func (p *Page) Origins(l net.Listener) []string {
	all := p2p.Origins(l)
	for i, origin := range all {
		if p.tls != nil {
			all[i] = "https" + strings.TrimPrefix(origin, "http")
		}
	}
	return all
}

const (
	headerTimeout = 10 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = 3 * time.Minute
	maxHeader     = 16 << 10
)

// Serve answers requests and compares mirrors until ctx ends or the listener fails.
func (p *Page) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { p.follow(ctx) })
	tasks.Go(func() { p.mirrors.follow(ctx, p.currentState) })
	defer tasks.Wait()
	defer cancel()
	web := &http.Server{
		Handler: p.Handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, TLSConfig: p.tls,
		ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { web.Close() })()
	serve := func() error { return web.Serve(l) }
	if p.tls != nil {
		serve = func() error { return web.ServeTLS(l, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin page: %w", err)
	}
	return nil
}

// Handler answers the requests of the page.
func (p *Page) Handler() http.Handler {
	open, mux := http.NewServeMux(), http.NewServeMux()
	static, _ := fs.Sub(assets, "assets")
	open.Handle("GET /assets/", http.StripPrefix("/assets/", cached(http.FileServerFS(static))))
	open.Handle("GET /login", p.view(p.loginView))
	open.HandleFunc("POST /login", p.logIn)
	open.Handle("/", p.readers(mux))
	for pattern, view := range map[string]view{
		"GET /{$}":                       p.overview,
		"GET /heads":                     p.heads,
		"GET /machines":                  p.machines,
		"GET /machines/{key}":            p.machine,
		"GET /machines/{key}/boots/{id}": p.boot,
		"GET /traffic":                   p.traffic,
		"GET /receipts":                  p.receiptsView,
		"GET /":                          p.notFound,
	} {
		mux.Handle(pattern, p.view(view))
	}
	mux.HandleFunc("GET /events", p.sendEvents)
	mux.HandleFunc("POST /logout", p.logOut)
	mux.HandleFunc("POST /machines/{key}/accept", p.decide((*reports.Store).Accept, "accepted", "/machines/KEY"))
	mux.HandleFunc("POST /machines/{key}/forget", p.decide((*reports.Store).Forget, "forgotten", "/machines"))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		if err := p.guard.checkHost(r); err != nil {
			http.Error(w, err.Error(), http.StatusMisdirectedRequest)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		open.ServeHTTP(w, r)
	})
}

// cached lets a browser keep an asset for as long as its publisher runs the same version.
func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") || r.URL.Path == "" { // no list of files
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "max-age=600")
		next.ServeHTTP(w, r)
	})
}

// readers lets the readers in that guard knows, and asks others to log in.
func (p *Page) readers(next http.Handler) http.Handler {
	ask := p.view(p.loginView)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known, ok := p.guard.known(r)
		if !ok && r.Header.Get("Authorization") != "" && p.guard.locked(r) {
			p.view(p.tooManyTokens).ServeHTTP(w, r)
			return
		}
		if !ok {
			ask.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, known)
	})
}

func (p *Page) logIn(w http.ResponseWriter, r *http.Request) {
	switch err := p.guard.origin.Check(r); {
	case err != nil:
		p.fail(w, r, http.StatusForbidden, "the form came from another page; open this page and use its own form")
	case p.guard.token == nil:
		p.fail(w, r, http.StatusNotFound, "this page needs no token")
	case p.guard.locked(r):
		p.view(p.tooManyTokens).ServeHTTP(w, r)
	case !p.guard.right(r, r.PostFormValue("token")):
		p.Log.Warn("admin page: wrong token", "from", r.RemoteAddr)
		p.view(p.wrongToken).ServeHTTP(w, r)
	default:
		p.guard.logIn(w)
		http.Redirect(w, r, ownPath(r.PostFormValue("next")), http.StatusSeeOther)
	}
}

// ownPath returns a path of this page, the first page for anything else.
func ownPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(next, `\`) {
		return "/"
	}
	return u.RequestURI()
}

func (p *Page) logOut(w http.ResponseWriter, r *http.Request) {
	if err := p.guard.checkForm(r); err != nil {
		p.fail(w, r, http.StatusForbidden, err.Error())
		return
	}
	p.guard.logOut(w, r)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// decide accepts or forgets the key of a machine.
func (p *Page) decide(change func(*reports.Store, context.Context, ...string) error, did, then string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key := r.PathValue("key")
		switch {
		case !p.mayDecide():
			p.fail(w, r, http.StatusForbidden, "this page knows no readers, so it decides nothing; use phase-publish machines, or serve the page with --admin-token")
			return
		case p.guard.checkForm(r) != nil:
			p.fail(w, r, http.StatusForbidden, p.guard.checkForm(r).Error())
			return
		}
		if err := change(p.Reports, r.Context(), key); err != nil {
			p.failWith(w, r, err)
			return
		}
		p.Log.Info("machine "+did, "machine", key, "from", r.RemoteAddr)
		http.Redirect(w, r, strings.ReplaceAll(then, "KEY", key), http.StatusSeeOther)
	}
}

// mayDecide reports whether the page has forms to accept and forget keys.
func (p *Page) mayDecide() bool { return p.guard.decides() && p.Reports != nil && !p.Reports.ReadOnly }

// currentState returns the state of the publisher.
func (p *Page) currentState(ctx context.Context) (State, error) {
	return p.state.get(ctx, p.Now(), p.State)
}

const (
	sharedAge     = 2 * time.Second // a value that is younger is shown again
	sharedTimeout = 10 * time.Second
)

// A shared value is read once for the pages of a moment: a change makes every open page ask for it.
type shared[T any] struct {
	mu    sync.Mutex
	value T
	at    time.Time // when it was read; zero if it has to be read again
}

func (s *shared[T]) get(ctx context.Context, now time.Time, read func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.at); s.at.IsZero() || age < 0 || age >= sharedAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
		defer cancel()
		value, err := read(ctx)
		if err != nil {
			return value, err
		}
		s.value, s.at = value, now
	}
	return s.value, nil
}

// forget makes get read the value again.
func (s *shared[T]) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = time.Time{}
}
