package publisher

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bitswap"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/admin"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// stopGrace is how long open requests may take after the daemon is stopped.
const stopGrace = 5 * time.Second

// ServeOptions say what a daemon serves, and where.
type ServeOptions struct {
	Store, Repo string
	Replica     bool                // read-only: the repository is in the object store of Store, Repo is ""; without keys
	Cache       bucket.CacheOptions // of a store in an object store
	Online      repo.OnlineKey
	IPNS        ed25519.PrivateKey
	HTTP        string // host:port; "" for no plain HTTP
	Netboot     string // folder with EFI programs, or one, that plain HTTP serves below /netboot/; "" for none
	Reports     string // database of the boot reports; "" is STORE/reports.db, without which it serves too, and none with an object store; ReportsOff for none
	Admin       admin.Config
	DaemonOptions
	MDNS bool
	Now  func() time.Time // nil: time.Now

	Uptime      func() time.Duration // of the machine; setting the clock does not change it; nil: the system's
	IgnoreClock bool                 // sign although the clock contradicts the dates of what is published
}

// DaemonOptions are the options that Serve and Bootstrap have in common.
type DaemonOptions struct {
	Identity string // file of the peer's key, made when missing; "" is STORE/peer.key, or without a folder a new key at each start
	Metrics  string // host:port of /metrics, /status and /healthz; "" for none
	Limits   Limits // the rates hold for Serve alone
	Network
	Log   *slog.Logger      // nil: silent
	Ready func(Ready) error // called once, when everything listens and a pointer is loaded
}

// Ready is what a daemon prints when it accepts requests.
type Ready struct {
	p2p.Endpoints
	IPNS    string `json:"ipns"` // name that points to the metadata folder
	Pointer string `json:"head"` // CID of the metadata folder

	Metrics []string `json:"metrics,omitempty"` // origins of /metrics, /status and /healthz
	Admin   []string `json:"admin,omitempty"`   // URLs of the admin page
}

// A server is one run of Serve.
type server struct {
	ServeOptions
	repo        *repo.Repo
	packs       store.Packs
	source      *generations
	ipns        atomic.Pointer[repo.Record] // of a replica, the name may change
	node        *p2p.Node
	meter       *meter
	reports     *reports.Store // nil if none are taken
	page        *admin.Page    // nil for none
	conns       *limit.Conns
	rates       *limit.Rates
	announced   atomic.Pointer[announced]     // nil before the first announcement
	mirrors     atomic.Pointer[[]MirrorState] // nil before they were asked
	replica     *store.Replica                // of a replica
	published   atomic.Pointer[publication]
	publishErr  atomic.Pointer[error] // of the last publishMetadata; nil before the first
	started     time.Time
	faults      *slog.Logger // for faults of the store that requests find
	outages     *slog.Logger // for requests that an object store did not answer
	storeHealth storeHealth
	outage      storeOutage
	clock       repo.ClockStart
	refreshErr  atomic.Pointer[error] // of the last refresh; nil before the first
	logged      map[string]bool       // problems in the log; only report uses it
}

// Serve runs the daemon until ctx ends; then it refuses new requests, gives open ones up to
// five seconds and returns nil. It waits for an object store that does not answer at the start. Of the store it changes
// the boot reports alone. It serves expired metadata too, and
// /healthz reports that machines refuse them. A repository without a release wraps
// fs.ErrNotExist.
func Serve(ctx context.Context, opts ServeOptions) error {
	s, err := newServer(opts)
	if err != nil {
		return err
	}
	in, err := s.listen()
	if err != nil {
		return err
	}
	defer func() { in.close() }()
	if err := s.openStore(ctx, in); err != nil && ctx.Err() != nil {
		return nil // stopped while it waited
	} else if err != nil {
		return err
	}
	defer s.close()
	if in.admin, err = s.listenAdmin(); err != nil {
		return err
	}
	identity, release, err := lockIdentity(s.Identity)
	if err != nil {
		return err
	}
	defer release()
	if err := s.openReports(ctx, identity); err != nil {
		return err
	}
	if s.reports != nil {
		defer s.closeReports()
	}
	if err := s.openPage(); err != nil {
		return err
	}
	plain, streams := s.handlers()
	if plain, err = s.withNetboot(plain); err != nil {
		return err
	}
	if err := s.startNode(ctx, identity, in.http, streams); err != nil {
		return err
	}
	defer s.node.Close()
	return s.run(ctx, in, plain)
}

// listeners are the plain TCP listeners; nil where a flag is empty.
type listeners struct{ http, metrics, admin net.Listener }

// listen opens the listeners but that of the admin page.
func (s *server) listen() (l listeners, err error) {
	if l.http, err = listenPlain("--http", s.HTTP); err != nil {
		return l, err
	}
	if l.metrics, err = listenPlain("--metrics", s.Metrics); err != nil {
		l.close()
	}
	return l, err
}

func (s *server) listenAdmin() (net.Listener, error) {
	addr := s.Admin.Address()
	if addr == "" {
		return nil, nil
	}
	return p2p.ListenHost("--admin", addr)
}

// close may be called after the servers have closed them.
func (l listeners) close() {
	for _, one := range []net.Listener{l.http, l.metrics, l.admin} {
		if one != nil {
			one.Close()
		}
	}
}

// newServer returns a server without a store; open opens it.
func newServer(opts ServeOptions) (*server, error) {
	if err := opts.Admin.Check(); err != nil {
		return nil, err
	}
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Uptime == nil {
		opts.Uptime = uptime
	}
	if opts.Identity == "" && !bucket.Is(opts.Store) {
		opts.Identity = filepath.Join(opts.Store, "peer.key")
	}
	s := &server{ServeOptions: opts, meter: newMeter(), started: opts.Now().UTC()}
	s.clock = repo.ClockStart{Wall: opts.Now(), Uptime: opts.Uptime()}
	s.faults = limit.OnceAnHour(opts.Log.With("store", opts.Store, "remedy", "phase-publish fsck"))
	s.outages = limit.OnceAnHour(opts.Log)
	all, perIP := s.Limits.conns()
	s.conns = &limit.Conns{Max: all, PerClient: perIP, Refused: s.meter.refuse} // streams have the limits of libp2p
	s.Limits.checkFiles(s.Log)
	return s, nil
}

// open loads repository, store, record and pointer. After an error it may be called again.
func (s *server) open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.close()
			s.packs = nil
			if s.replica != nil {
				s.replica, s.Repo = nil, ""
			}
		}
	}()
	if s.Replica {
		if err := s.openReplica(ctx); err != nil {
			return err
		}
	}
	if err := s.openRepo(ctx); err != nil {
		return err
	}
	p, err := s.repo.Published(ctx)
	if err != nil {
		return err
	}
	if s.packs, err = store.OpenCached(ctx, s.Store, p != nil, s.Cache, s.Log); err != nil {
		return err
	}
	s.source = newGenerations(s.packs)
	// it signs with a doubtful clock all the same: a publisher that was off for long looks alike,
	// and what is signed now moves a machine's time by an hour at most
	if err := s.repo.CheckClock(p, s.Now()); err != nil {
		s.Log.Warn("clock in doubt", "cause", err)
	}
	s.refreshErr.Store(nil)
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.report(ctx)
	return nil
}

// close closes what open has opened.
func (s *server) close() {
	if s.packs != nil {
		s.packs.Close()
	}
	s.closeReplica()
}

// openRepo loads the repository and checks the keys. A replica has none.
func (s *server) openRepo(ctx context.Context) (err error) {
	if s.repo, err = repo.Open(ctx, s.Repo); err != nil {
		return err
	}
	if s.Replica {
		return s.use(s.repo.ForeignRecord())
	}
	if err := s.repo.CheckOnlineKey(s.Online.Public); err != nil {
		return err
	}
	return s.use(s.repo.NewRecord(s.IPNS))
}

func (s *server) use(r *repo.Record, err error) error {
	if err == nil {
		s.ipns.Store(r)
	}
	return err
}

// record is the IPNS record that is served.
func (s *server) record() *repo.Record { return s.ipns.Load() }

// startNode joins the network, and serves handler over streams and Bitswap for stock IPFS nodes. The
// same rates hold for both.
func (s *server) startNode(ctx context.Context, identity crypto.PrivKey, l net.Listener, handler http.Handler) error {
	opts, err := s.options(s.repo.Root.Discovery())
	if err != nil {
		return err
	}
	opts.Identity, opts.MDNS, opts.Log = identity, s.MDNS, s.Log
	s.Limits.apply(&opts)
	if l != nil {
		opts.HTTP = p2p.ListenerAddrs(l.Addr())
	}
	if s.node, err = p2p.New(ctx, opts); err != nil {
		return err
	}
	sent := func(bytes int64) { s.meter.count("bitswap", "block", bytes) }
	blocks := bitswap.Options{Store: s.source, Throttle: s.rates.Wait, Sent: sent, Fault: s.fault, Log: s.Log}
	if err := errors.Join(s.node.Serve(handler), s.node.ServeBitswap(blocks)); err != nil {
		return errors.Join(err, s.node.Close())
	}
	return nil
}

// run serves until ctx ends or a part fails.
func (s *server) run(ctx context.Context, in listeners, handler http.Handler) error {
	watch, err := watchRepo(s.repo.Dir)
	if err != nil {
		return err
	}
	defer watch.Close()
	web := s.conns.Server(handler, maxHeader, idleTimeout, s.Log)
	group, gctx := errgroup.WithContext(ctx)
	if in.http != nil {
		group.Go(func() error {
			if err := web.Serve(s.conns.Listener(in.http)); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("HTTP: %w", err)
			}
			return nil
		})
	}
	if in.metrics != nil {
		group.Go(func() error { return s.control().serve(gctx, s.conns.OperatorListener(in.metrics)) })
		group.Go(func() error { s.watchMirrors(gctx); return nil })
	}
	if in.admin != nil {
		group.Go(func() error { return s.page.Serve(gctx, s.conns.OperatorListener(in.admin)) })
	}
	group.Go(func() error { s.follow(gctx, watch); return nil })
	if bucket.Is(s.Store) {
		group.Go(func() error { s.watchStore(gctx); return nil })
	}
	if s.DHT != DHTOff {
		group.Go(func() error { s.announce(gctx); return nil })
	}
	group.Go(func() error {
		<-gctx.Done()
		s.stop(web)
		return nil
	})
	if s.Ready != nil {
		if err := s.Ready(s.ready(in)); err != nil {
			group.Go(func() error { return err })
		}
	}
	return group.Wait()
}

// stop refuses new requests, waits for open ones, and then closes all.
func (s *server) stop(web *http.Server) {
	s.Log.Info("stopping")
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var both errgroup.Group
	both.Go(func() error {
		err := web.Shutdown(ctx)
		if err != nil {
			web.Close()
		}
		return err
	})
	both.Go(func() error { return s.node.Drain(ctx) })
	if err := both.Wait(); err != nil {
		s.Log.Warn("open requests closed", "after", stopGrace, "cause", err)
	}
	s.Log.Info("stopped", "sent_bytes", s.meter.sent.Load())
}

func (s *server) ready(in listeners) Ready {
	current, _ := s.source.current()
	r := Ready{
		Endpoints: s.node.Endpoints(in.http), Metrics: p2p.Origins(in.metrics), IPNS: s.record().Name, Pointer: current.Folder.String(),
	}
	if in.admin != nil {
		r.Admin = s.page.Origins(in.admin)
	}
	return r
}

// uptime is the time since the machine started, including sleep. Setting the clock does not
// change it.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
