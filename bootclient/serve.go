package bootclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// What others may take of a machine that has work of its own and perhaps 512 MB.
const (
	maxConns     = 384 // open web connections
	maxConnsEach = 64  // of them from one address
	maxPeers     = 96  // libp2p connections, each with up to 16 streams of 256 KiB at most
	maxPeersEach = 32
	maxHeader    = 8 << 10
	headerLimit  = 10 * time.Second // for the head of a request
	idleLimit    = time.Minute      // for the next request of a connection
	drainLimit   = 500 * time.Millisecond
)

// anywhere is where a machine listens that nobody told an address: free ports, which
// neighbours learn by mDNS, the DHT and identify.
var anywhere = []string{"/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"}

// A serving is a gateway that is open: plain HTTP, the same over libp2p streams, and a
// node that tells others of both.
type serving struct {
	node     *p2p.Node
	web      *http.Server
	listener net.Listener
	ended    chan struct{} // closed when the web server is down
	err      error         // why
}

// Ready is where others find a machine that serves.
type Ready struct {
	Peer   string   `json:"peer"`
	HTTP   []string `json:"http"`   // origins, http://IP:PORT
	Listen []string `json:"listen"` // multiaddrs with /p2p/ID

	Release string `json:"release,omitempty"` // version, of Seed
	Head    string `json:"head,omitempty"`    // CID of its metadata folder
}

// ready says where that is, at this moment.
func (s *serving) ready() Ready {
	r := Ready{Peer: s.node.ID().String(), HTTP: []string{}, Listen: []string{}}
	r.HTTP = append(r.HTTP, p2p.Origins(p2p.ListenerAddrs(s.listener.Addr()))...)
	for _, a := range s.node.Addrs() {
		r.Listen = append(r.Listen, a.String())
	}
	return r
}

// openServing starts a node with opts that serves what offer says, its plain HTTP at addr,
// "" for any free port. Where opts name no address to listen on, it is any that is free.
func openServing(ctx context.Context, opts p2p.Options, offer gateway.Options, addr string) (_ *serving, err error) {
	l, err := net.Listen("tcp", cmp.Or(addr, ":0"))
	if err != nil {
		return nil, p2p.ListenerError("--http "+cmp.Or(addr, ":0"), err)
	}
	conns := limit.Conns{Max: maxConns, PerAsker: maxConnsEach}
	s := &serving{listener: conns.Listener(l), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if len(opts.Listen) == 0 {
		if opts.Listen, err = p2p.ParseAddrs(anywhere); err != nil {
			return nil, err
		}
	}
	opts.HTTP, opts.MaxConns, opts.MaxConnsPerIP = p2p.ListenerAddrs(l.Addr()), maxPeers, maxPeersEach
	if s.node, err = p2p.New(ctx, opts); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	handler := gateway.Handler(offer)
	if err := s.node.Serve(handler); err != nil {
		return nil, errors.Join(err, s.node.Close())
	}
	s.web = &http.Server{
		Handler: handler, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
	conns.Guard(s.web)
	go func() {
		s.err = s.web.Serve(s.listener)
		close(s.ended)
	}()
	return s, nil
}

// close lets answers under way end, for half a second, and then ends everything.
func (s *serving) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	err := s.web.Shutdown(ctx)
	if err != nil {
		err = s.web.Close()
	}
	if <-s.ended; !errors.Is(s.err, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("HTTP: %w", s.err))
	}
	return errors.Join(err, s.node.Close())
}

// start starts the node of a discovery, and serves the shared blocks if there are any. A
// machine that cannot serve still boots.
func (d *discovery) start(opts p2p.Options) error {
	if d.shared != nil {
		own := opts
		own.Listen = d.cfg.Listen
		s, err := openServing(d.ctx, own, d.shared.offer(), d.cfg.HTTP)
		if err == nil {
			d.serving, d.sources.node = s, s.node
			d.cfg.Ready(s.ready())
			return nil
		}
		d.cfg.Report.Refuse("this machine", "serving others", err)
		d.shared = nil
	}
	node, err := p2p.New(d.ctx, opts)
	if err != nil {
		return fmt.Errorf("peer-to-peer: %w", err)
	}
	d.sources.node = node
	return nil
}
