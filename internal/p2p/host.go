package p2p

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/phaseboot/phaseboot/internal/p2p/peertls"
)

const (
	dialTimeout   = 10 * time.Second
	acceptTimeout = 10 * time.Second // for the handshake of an inbound connection
	connGrace     = 20 * time.Second // age before a connection may be trimmed
)

// A Transport makes a transport in addition to TCP, and a Closer that is closed after the host.
type Transport func(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error)

// A Service runs with the host and is closed before it. Like a Transport it is in a package of its
// own, so that only programs that need it link it.
type Service func(Parts) (io.Closer, error)

// Parts are what a Service needs of a Node.
type Parts struct {
	Host     host.Host
	Upgrader transport.Upgrader
	Peers    func() []peer.AddrInfo          // bootstrap peers and those in the routing table
	Dialer   func() (network.Network, error) // dials with another identity, over the same transports
	Log      *slog.Logger
}

// Closers are closed in order, each whatever the others return.
type Closers []io.Closer

// Close closes all.
func (c Closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// A Router makes the parts of a host that lets peers reach a Node behind a router. Ports maps ports
// on the router. Seen collects the addresses at which peers see the Node, which hole punching
// needs.
type Router struct {
	Ports func(network.Network) basichost.NATManager
	Seen  func(event.Bus, network.Network) (Seen, error)
}

// Seen is a libp2p manager of observed addresses that is closed after the host.
type Seen interface {
	basichost.ObservedAddrsManager
	io.Closer
}

// newHost builds a libp2p host from its parts. libp2p.New would link all transports (WebRTC alone
// has megabytes) into an initramfs that stays in memory. The host has no relay, NAT probing or
// hole punching unless options ask for them. Closing the host closes all parts except the
// returned closers.
func newHost(opts Options) (_ *basichost.BasicHost, up transport.Upgrader, after Closers, err error) {
	limits, err := resourceManager(opts)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("libp2p limits: %w", err)
	}
	sw, bus, err := newSwarm(opts.Identity, limits)
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("libp2p: %w", err), limits.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sw.Close(), sw.Peerstore().Close(), limits.Close())
		}
	}()
	if up, after, err = addTransports(sw, opts, limits); err != nil {
		return nil, nil, after, fmt.Errorf("libp2p: %w", err)
	}
	maxConns, _ := opts.conns() // idle connections are trimmed before new ones are refused
	conns, err := connmgr.NewConnManager(maxConns/4, maxConns*3/4, connmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, nil, after, fmt.Errorf("libp2p: %w", err)
	}
	parts := &basichost.HostOpts{
		EventBus:     bus,
		ConnManager:  conns,
		AddrsFactory: addrsFactory(opts.Announce, opts.HTTP),
		UserAgent:    "phaseboot",
	}
	if r := opts.Router; r != nil {
		seen, err := r.Seen(bus, sw)
		if err != nil {
			return nil, nil, after, errors.Join(fmt.Errorf("libp2p: %w", err), conns.Close())
		}
		after = append(after, seen)
		parts.EnableHolePunching, parts.NATManager, parts.ObservedAddrsManager = true, r.Ports, seen
	}
	h, err := basichost.NewHost(sw, parts)
	if err != nil {
		return nil, nil, after, errors.Join(fmt.Errorf("libp2p: %w", err), conns.Close())
	}
	h.Start()
	return h, up, after, nil
}

func newSwarm(key crypto.PrivKey, limits network.ResourceManager) (*swarm.Swarm, event.Bus, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	known, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(known.AddPrivKey(id, key), known.AddPubKey(id, key.GetPublic()))
	bus := eventbus.NewBus()
	var sw *swarm.Swarm
	if err == nil {
		sw, err = swarm.NewSwarm(id, known, bus,
			swarm.WithResourceManager(limits), swarm.WithDialTimeout(dialTimeout),
			// Without black hole detection: few addresses are dialled, so that a few
			// failures say nothing about a whole address family.
			swarm.WithUDPBlackHoleSuccessCounter(nil), swarm.WithIPv6BlackHoleSuccessCounter(nil))
	}
	if err != nil {
		return nil, nil, errors.Join(err, known.Close())
	}
	return sw, bus, nil
}

// addTransports adds TCP (with TLS or Noise, and yamux) and the transports of opts. TCP dials from
// its listening port (SO_REUSEPORT) only if opts.Router is set, as hole punching needs it; without
// it, listening on a taken port fails.
func addTransports(sw *swarm.Swarm, opts Options, limits network.ResourceManager) (up transport.Upgrader, after Closers, err error) {
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	overTLS, err := peertls.New(opts.Identity, muxers)
	if err != nil {
		return nil, nil, err
	}
	overNoise, err := noise.New(noise.ID, opts.Identity, muxers)
	if err != nil {
		return nil, nil, err
	}
	up, err = upgrader.New([]sec.SecureTransport{overTLS, overNoise}, muxers, nil, limits, nil, upgrader.WithAcceptTimeout(acceptTimeout))
	if err != nil {
		return nil, nil, err
	}
	var how []tcp.Option
	if opts.Router == nil {
		how = append(how, tcp.DisableReuseport())
	}
	overTCP, err := tcp.NewTCPTransport(up, limits, nil, how...)
	if err != nil {
		return nil, nil, err
	}
	if err := sw.AddTransport(overTCP); err != nil {
		return nil, nil, err
	}
	for _, make := range opts.Transports {
		t, closer, err := make(opts.Identity, limits)
		if err != nil {
			return nil, after, err
		}
		after = append(after, closer)
		if err := sw.AddTransport(t); err != nil {
			return nil, after, err
		}
	}
	return up, after, nil
}

// anonymousSwarm returns a swarm with a new identity that only dials.
func anonymousSwarm(opts Options) (network.Network, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	opts.Identity, opts.Transports, opts.Router = key, nil, nil
	limits, err := resourceManager(Options{})
	if err != nil {
		return nil, err
	}
	sw, _, err := newSwarm(key, limits)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	if _, _, err := addTransports(sw, opts, limits); err != nil {
		return nil, errors.Join(err, sw.Close(), limits.Close())
	}
	return sw, nil
}

// caused reports whether err comes from cause. It also compares the text, as libp2p does not wrap
// errors.
func caused(err, cause error) bool {
	return err != nil && (errors.Is(err, cause) || strings.Contains(err.Error(), cause.Error()))
}

// listenError returns the error for an address that cannot be listened on: that of a flag, or a
// multiaddr. all is how to write every address of the machine.
func listenError(what, all string, err error) error {
	var addr *net.AddrError
	var dns *net.DNSError
	switch {
	case caused(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: address in use; choose another port or stop the other process", what)
	case caused(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: not an address of this machine; name one of its own, or %s for all: %w", what, all, fs.ErrInvalid)
	case caused(err, syscall.EACCES):
		return fmt.Errorf("%s: a port that this user may not use; name one above 1023, or give the program CAP_NET_BIND_SERVICE: %w", what, fs.ErrPermission)
	case caused(err, swarm.ErrNoTransport):
		return fmt.Errorf("%s: no such transport here; write it like /ip4/0.0.0.0/tcp/4001: %w", what, fs.ErrInvalid)
	case errors.As(err, &addr):
		return fmt.Errorf("%s: %s; write it as HOST:PORT or :PORT: %w", what, addr.Err, fs.ErrInvalid)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: %s; write it as HOST:PORT or :PORT: %w", what, dns.Err, fs.ErrInvalid)
	}
	return fmt.Errorf("%s: %w", what, err)
}
