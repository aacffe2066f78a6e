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
	"github.com/libp2p/go-libp2p/core/protocol"
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
	headerTimeout = 20 * time.Second // until the first byte of a response
	idleTimeout   = 90 * time.Second
)

// ErrNoHTTP means that a peer was reached but serves no HTTP over streams.
var ErrNoHTTP = fmt.Errorf("serves no HTTP over streams: %w", cas.ErrUnreachable)

// Serve answers HTTP requests that arrive over libp2p streams with h, until Drain or Close, and
// returns at once. RemoteAddr of a request is the IP and port of the connection, or of the relay
// if the connection is relayed.
func (n *Node) Serve(h http.Handler) error {
	l, err := gostream.Listen(n.host, httpProtocol, gostream.IgnoreEOF())
	if err != nil {
		return fmt.Errorf("HTTP over streams: %w", err)
	}
	s := &http.Server{
		Handler:           n.withAddress(h),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * idleTimeout,
		MaxHeaderBytes:    maxHTTPHeader,
		ConnContext:       withConn,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		l.Close()
		return fmt.Errorf("HTTP over streams: %w", http.ErrServerClosed)
	}
	n.servers, n.before = append(n.servers, s), append(n.before, s)
	n.tasks.Go(func() {
		err := s.Serve(l)
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
			n.log.Warn("HTTP over streams: stopped", "cause", err)
		}
	})
	return nil
}

type connKey struct{}

// withConn stores the libp2p connection of a stream for withAddress.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c.(network.Stream).Conn())
}

// withAddress sets RemoteAddr of each request, and protects the connection of a request in progress
// from being trimmed.
func (n *Node) withAddress(next http.Handler) http.Handler {
	var serial atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{}).(network.Conn)
		r.RemoteAddr = remoteAddr(conn)
		id, tag := conn.RemotePeer(), fmt.Sprintf("request %d", serial.Add(1))
		n.host.ConnManager().Protect(id, tag)
		defer n.host.ConnManager().Unprotect(id, tag)
		next.ServeHTTP(w, r)
	})
}

// Drain accepts no more requests over streams and waits for those in progress, until ctx ends.
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

// HTTP connects to a peer and returns a client whose requests go to this peer over streams, whatever the
// host of their URL. If the connection is lost, the next request connects again, to the addresses of info
// only. A response must begin within 20 seconds. The error is ErrNoHTTP if the peer serves no HTTP over
// streams, as a mere DHT node; every error wraps cas.ErrUnreachable.
func (n *Node) HTTP(ctx context.Context, info peer.AddrInfo) (*http.Client, error) {
	if err := n.connect(ctx, info); err != nil {
		return nil, err
	}
	if !n.speaks(ctx, info.ID, httpProtocol) {
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
		ExpectContinueTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHTTPHeader,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("peer %s: %w", info.ID, cas.ErrUnreachable)
	}
	n.transports = append(n.transports, t)
	return &http.Client{Transport: t}, nil
}

// Gateway connects to a peer and returns a client of its gateway over streams. Errors are those of HTTP.
func (n *Node) Gateway(ctx context.Context, info peer.AddrInfo) (*gateway.Client, error) {
	client, err := n.HTTP(ctx, info)
	if err != nil {
		return nil, err
	}
	return &gateway.Client{Base: "http://" + info.ID.String(), HTTP: client}, nil
}

// speaks reports whether a connected peer answers a protocol. If identify has not named the protocol,
// it opens a stream: the peer may have begun to serve since.
func (n *Node) speaks(ctx context.Context, id peer.ID, p protocol.ID) bool {
	if protocols, err := n.host.Peerstore().SupportsProtocols(id, p); err == nil && len(protocols) > 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected above"), dialTimeout)
	defer cancel()
	s, err := n.host.NewStream(ctx, id, p)
	if err != nil {
		return false
	}
	s.Reset()
	return true
}

// connect dials the addresses of info once, unless the peer is already connected, and returns when
// identify has the protocols and addresses of the peer.
func (n *Node) connect(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if len(info.Addrs) > 0 && n.host.Network().Connectedness(info.ID) != network.Connected {
		n.host.Peerstore().ClearAddrs(info.ID)
		// Connect adds them too, but with a lifetime that identify shortens if a connection has just ended.
		n.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.AddressTTL)
	}
	if err := n.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("peer %s: %w (%w)", info.ID, err, cas.ErrUnreachable)
	}
	for _, c := range n.host.Network().ConnsToPeer(info.ID) { // another call may have dialled it just now
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
