package share

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// Limits of what other machines may take of this one, which has its own work and perhaps 512 MB.
const (
	maxConns     = 384 // open HTTP connections
	maxConnsEach = 64  // … from one address
	maxPeers     = 96  // libp2p connections, each with at most 16 streams of 256 KiB
	maxPeersEach = 32
	maxHeader    = 8 << 10
)

// anywhere are the default addresses: free ports, which peers learn by mDNS, the DHT and identify.
var anywhere = []string{"/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"}

// A Server is an open gateway: plain HTTP, the same over libp2p streams, and a node that
// announces both.
type Server struct {
	Node     *p2p.Node
	web      *http.Server
	listener net.Listener
	Ended    chan struct{} // closed when the HTTP server has ended
	err      error         // the reason
}

// Ready returns the present addresses.
func (s *Server) Ready() report.Ready {
	return report.Ready{Endpoints: s.Node.Endpoints(s.listener)}
}

// Open starts a node with opts, and a gateway with offer on it and on plain HTTP at addr,
// "" for any free port. Without addresses in opts, the node listens on free ports. sent is called
// with the bytes of each answer.
func Open(ctx context.Context, opts p2p.Options, offer gateway.Options, sent func(bytes int64), addr string) (_ *Server, err error) {
	l, err := p2p.ListenTCP("--http", cmp.Or(addr, ":0"))
	if err != nil {
		return nil, err
	}
	conns := limit.Conns{Max: maxConns, PerClient: maxConnsEach}
	s := &Server{listener: conns.Listener(l), Ended: make(chan struct{})}
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
	if s.Node, err = p2p.New(ctx, opts); err != nil {
		return nil, err
	}
	handler := limit.NewRates(limit.Options{Grace: timing.SlowReader, Sent: sent}).Handler(gateway.Handler(offer))
	if err := s.Node.Serve(handler); err != nil {
		return nil, errors.Join(err, s.Node.Close())
	}
	s.web = conns.Server(handler, maxHeader, timing.IdleLimit, opts.Log)
	go func() {
		s.err = s.web.Serve(s.listener)
		close(s.Ended)
	}()
	return s, nil
}

// Close lets open answers end within timing.DrainLimit, and then ends everything.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), timing.DrainLimit)
	defer cancel()
	err := s.web.Shutdown(ctx)
	if err != nil {
		err = s.web.Close()
	}
	if <-s.Ended; !errors.Is(s.err, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("HTTP: %w", s.err))
	}
	return errors.Join(err, s.Node.Close())
}
