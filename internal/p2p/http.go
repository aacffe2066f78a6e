package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// httpProtocol is the protocol ID of libp2p's HTTP specification,
// https://github.com/libp2p/specs/tree/master/http.
const httpProtocol = "/http/1.1"

const (
	maxStreams    = 8 // open HTTP streams to one peer
	maxHTTPHeader = 16 << 10
	headerTimeout = 20 * time.Second // until the first byte of an answer
	idleTimeout   = 90 * time.Second
)

// ErrNoHTTP says that a peer was reached and is no gateway.
var ErrNoHTTP = fmt.Errorf("serves no HTTP over streams: %w", cas.ErrUnreachable)

// Serve answers HTTP requests that arrive over libp2p streams with h, until Drain or
// Close. RemoteAddr of a request is the IP and port of the connection, those of the relay
// where there is one in between. It returns at once.
func (n *Node) Serve(h http.Handler) error {
	l, err := gostream.Listen(n.host, httpProtocol, gostream.IgnoreEOF())
	if err != nil {
		return fmt.Errorf("HTTP over streams: %w", err)
	}
	s := &http.Server{
		Handler:           n.keeping(h),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * idleTimeout,
		MaxHeaderBytes:    maxHTTPHeader,
		ConnContext:       withPeer,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		l.Close()
		return fmt.Errorf("HTTP over streams: %w", http.ErrServerClosed)
	}
	n.servers = append(n.servers, s)
	n.tasks.Go(func() {
		err := s.Serve(placed{l})
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
			n.log.Warn("HTTP over streams: stopped", "cause", err)
		}
	})
	return nil
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c.(placedConn).peer())
}

// keeping protects the connection of a request under way from being trimmed.
func (n *Node) keeping(next http.Handler) http.Handler {
	var serial atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := r.Context().Value(peerKey{}).(peer.ID)
		tag := fmt.Sprintf("request %d", serial.Add(1))
		n.host.ConnManager().Protect(id, tag)
		defer n.host.ConnManager().Unprotect(id, tag)
		next.ServeHTTP(w, r)
	})
}

// Drain takes no more requests over streams and waits, as long as ctx lasts, for
// those under way.
func (n *Node) Drain(ctx context.Context) error {
	n.mu.Lock()
	servers := n.servers
	n.mu.Unlock()
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// Gateway connects to a peer and returns a client of its gateway over streams. When
// the connection is lost, the next request connects again, to the addresses of info
// only. A peer that serves no HTTP over streams, such as a DHT node and nothing else,
// is refused with ErrNoHTTP. An error wraps cas.ErrUnreachable.
func (n *Node) Gateway(ctx context.Context, info peer.AddrInfo) (*gateway.Client, error) {
	if err := n.connect(ctx, info); err != nil {
		return nil, err
	}
	if !n.servesHTTP(ctx, info.ID) {
		return nil, fmt.Errorf("peer %s: %w", info.ID, ErrNoHTTP)
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.stream(ctx, info)
		},
		DisableCompression:     true,
		MaxConnsPerHost:        maxStreams,
		MaxIdleConnsPerHost:    maxStreams,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHTTPHeader,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("peer %s: %w", info.ID, cas.ErrUnreachable)
	}
	n.transports = append(n.transports, t)
	return &gateway.Client{Base: "http://" + info.ID.String(), HTTP: &http.Client{Transport: t}}, nil
}

// servesHTTP reports whether a connected peer serves HTTP over streams. Who has just begun
// to may not have said so yet: it is asked.
func (n *Node) servesHTTP(ctx context.Context, id peer.ID) bool {
	if spoken, err := n.host.Peerstore().SupportsProtocols(id, httpProtocol); err == nil && len(spoken) > 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected above"), dialTimeout)
	defer cancel()
	s, err := n.host.NewStream(ctx, id, httpProtocol)
	if err != nil {
		return false
	}
	s.Reset()
	return true
}

// connect dials info's addresses, once, unless the peer is connected already, and
// returns when the peer has said what it serves and where.
func (n *Node) connect(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if len(info.Addrs) > 0 && n.host.Network().Connectedness(info.ID) != network.Connected {
		n.host.Peerstore().ClearAddrs(info.ID)
		// Connect adds them too, for a time that identify takes away when a connection has just ended.
		n.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.AddressTTL)
	}
	if err := n.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("peer %s: %w (%w)", info.ID, err, cas.ErrUnreachable)
	}
	for _, c := range n.host.Network().ConnsToPeer(info.ID) { // another may have dialled it just now
		select {
		case <-n.host.IDService().IdentifyWait(c):
		case <-ctx.Done():
			return fmt.Errorf("peer %s: %w (%w)", info.ID, ctx.Err(), cas.ErrUnreachable)
		}
	}
	return nil
}

func (n *Node) stream(ctx context.Context, info peer.AddrInfo) (net.Conn, error) {
	if err := n.connect(ctx, info); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected above"), dialTimeout)
	defer cancel()
	return gostream.Dial(ctx, n.host, info.ID, httpProtocol)
}
