package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/insecure"
	secure "github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// wires are a network inside this process, for more connections than there may be open
// files. Noise and yamux run over it as over TCP. Its addresses are those of QUIC, which
// libp2p dials without waiting for others, and which no node here has.
type wires struct {
	mu    sync.Mutex
	next  int
	hosts map[string]*wireListener
}

func newWires() *wires { return &wires{hosts: map[string]*wireListener{}} }

// client is a p2p.Transport that insists on Noise.
func (w *wires) client(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error) {
	shaker, err := secure.New(secure.ID, key, muxers)
	if err != nil {
		return nil, nil, err
	}
	return w.transport(limits, shaker)
}

// server is one whose nodes trust each other's word among themselves: a thousand of them
// would shake hands for minutes.
func (w *wires) server(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error) {
	id, err := peer.IDFromPrivateKey(key)
	shaker, err2 := secure.New(secure.ID, key, muxers)
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	return w.transport(limits, insecure.NewWithIdentity(insecure.ID, id, key), shaker)
}

var muxers = []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}

func (w *wires) transport(limits network.ResourceManager, shakers ...sec.SecureTransport) (transport.Transport, io.Closer, error) {
	up, err := upgrader.New(shakers, muxers, nil, limits, nil)
	return &wireTransport{w, up, limits}, io.NopCloser(nil), err
}

type wireTransport struct {
	*wires
	up     transport.Upgrader
	limits network.ResourceManager
}

func (t *wireTransport) Protocols() []int { return []int{multiaddr.P_QUIC_V1} }
func (t *wireTransport) Proxy() bool      { return false }

func (t *wireTransport) CanDial(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
}

func (t *wireTransport) Dial(ctx context.Context, to multiaddr.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	scope, err := t.limits.OpenConnection(network.DirOutbound, false, to)
	if err != nil {
		return nil, err
	}
	conn, err := t.dial(ctx, to)
	if err == nil {
		err = scope.SetPeer(p)
	}
	if err != nil {
		scope.Done()
		return nil, err
	}
	return t.up.Upgrade(ctx, t, conn, network.DirOutbound, p, scope)
}

// dial hands the other end to who listens.
func (t *wireTransport) dial(ctx context.Context, to multiaddr.Multiaddr) (manet.Conn, error) {
	t.mu.Lock()
	l := t.hosts[to.String()]
	t.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s: nobody listens", to)
	}
	from := t.free()
	near, far := net.Pipe()
	select {
	case l.asked <- wireConn{far, to, from}:
		return wireConn{near, from, to}, nil
	case <-l.closed:
		return nil, fmt.Errorf("%s: closed", to)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *wireTransport) Listen(at multiaddr.Multiaddr) (transport.Listener, error) {
	l := &wireListener{net: t.wires, at: t.free(), asked: make(chan wireConn), closed: make(chan struct{})}
	t.mu.Lock()
	t.hosts[l.at.String()] = l
	t.mu.Unlock()
	return t.up.UpgradeGatedMaListener(t, t.up.GateMaListener(l)), nil
}

// free is an address that nobody had before, for the first four billion.
func (w *wires) free() multiaddr.Multiaddr {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return multiaddr.StringCast(fmt.Sprintf("/ip4/127.%d.%d.1/udp/%d/quic-v1", w.next>>24, w.next>>16&0xff, w.next&0xffff))
}

// A wireConn is one end of a pipe, with its addresses.
type wireConn struct {
	net.Conn
	local, remote multiaddr.Multiaddr
}

func (c wireConn) LocalAddr() net.Addr  { return netAddr(c.local) }
func (c wireConn) RemoteAddr() net.Addr { return netAddr(c.remote) }

func (c wireConn) LocalMultiaddr() multiaddr.Multiaddr  { return c.local }
func (c wireConn) RemoteMultiaddr() multiaddr.Multiaddr { return c.remote }

type wireListener struct {
	net    *wires
	at     multiaddr.Multiaddr
	asked  chan wireConn
	closed chan struct{}
	once   sync.Once
}

func (l *wireListener) Accept() (manet.Conn, error) {
	select {
	case c := <-l.asked:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *wireListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.hosts, l.at.String())
	})
	return nil
}

func (l *wireListener) Multiaddr() multiaddr.Multiaddr { return l.at }
func (l *wireListener) Addr() net.Addr                 { return netAddr(l.at) }

func netAddr(a multiaddr.Multiaddr) net.Addr {
	first, _ := multiaddr.SplitLast(a) // without its quic-v1
	addr, err := manet.ToNetAddr(first)
	if err != nil {
		return &net.UDPAddr{}
	}
	return addr
}
