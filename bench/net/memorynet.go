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

// A memoryNetwork is a libp2p network inside this process. It allows more connections than
// there may be open files. Noise and yamux run over it as over TCP. Its addresses look like
// QUIC, because libp2p dials QUIC first and without delay; no node here uses real QUIC.
type memoryNetwork struct {
	mu    sync.Mutex
	next  int
	hosts map[string]*memoryListener
}

func newMemoryNetwork() *memoryNetwork { return &memoryNetwork{hosts: map[string]*memoryListener{}} }

// client is a p2p.Transport that requires Noise.
func (w *memoryNetwork) client(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error) {
	handshake, err := secure.New(secure.ID, key, muxers)
	if err != nil {
		return nil, nil, err
	}
	return w.transport(limits, handshake)
}

// server is a p2p.Transport that uses libp2p's plaintext between nodes and Noise with clients:
// Noise handshakes between a thousand nodes would take minutes.
func (w *memoryNetwork) server(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error) {
	id, err := peer.IDFromPrivateKey(key)
	handshake, err2 := secure.New(secure.ID, key, muxers)
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	return w.transport(limits, insecure.NewWithIdentity(insecure.ID, id, key), handshake)
}

var muxers = []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}

func (w *memoryNetwork) transport(limits network.ResourceManager, security ...sec.SecureTransport) (transport.Transport, io.Closer, error) {
	up, err := upgrader.New(security, muxers, nil, limits, nil)
	return &memoryTransport{w, up, limits}, io.NopCloser(nil), err
}

type memoryTransport struct {
	*memoryNetwork
	up     transport.Upgrader
	limits network.ResourceManager
}

func (t *memoryTransport) Protocols() []int { return []int{multiaddr.P_QUIC_V1} }
func (t *memoryTransport) Proxy() bool      { return false }

func (t *memoryTransport) CanDial(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
}

func (t *memoryTransport) Dial(ctx context.Context, to multiaddr.Multiaddr, p peer.ID) (transport.CapableConn, error) {
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

// dial makes a pipe and passes its other end to the listener.
func (t *memoryTransport) dial(ctx context.Context, to multiaddr.Multiaddr) (manet.Conn, error) {
	t.mu.Lock()
	l := t.hosts[to.String()]
	t.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s: no listener", to)
	}
	from := t.newAddr()
	near, far := net.Pipe()
	select {
	case l.dialed <- memoryConn{far, to, from}:
		return memoryConn{near, from, to}, nil
	case <-l.closed:
		return nil, fmt.Errorf("%s: closed", to)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *memoryTransport) Listen(at multiaddr.Multiaddr) (transport.Listener, error) {
	l := &memoryListener{net: t.memoryNetwork, at: t.newAddr(), dialed: make(chan memoryConn), closed: make(chan struct{})}
	t.mu.Lock()
	t.hosts[l.at.String()] = l
	t.mu.Unlock()
	return t.up.UpgradeGatedMaListener(t, t.up.GateMaListener(l)), nil
}

// newAddr returns a new address; there are 2^32.
func (w *memoryNetwork) newAddr() multiaddr.Multiaddr {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return multiaddr.StringCast(fmt.Sprintf("/ip4/127.%d.%d.1/udp/%d/quic-v1", w.next>>24, w.next>>16&0xff, w.next&0xffff))
}

// A wireConn is one end of a pipe, with its addresses.
type memoryConn struct {
	net.Conn
	local, remote multiaddr.Multiaddr
}

func (c memoryConn) LocalAddr() net.Addr  { return netAddr(c.local) }
func (c memoryConn) RemoteAddr() net.Addr { return netAddr(c.remote) }

func (c memoryConn) LocalMultiaddr() multiaddr.Multiaddr  { return c.local }
func (c memoryConn) RemoteMultiaddr() multiaddr.Multiaddr { return c.remote }

type memoryListener struct {
	net    *memoryNetwork
	at     multiaddr.Multiaddr
	dialed chan memoryConn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) Accept() (manet.Conn, error) {
	select {
	case c := <-l.dialed:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.hosts, l.at.String())
	})
	return nil
}

func (l *memoryListener) Multiaddr() multiaddr.Multiaddr { return l.at }
func (l *memoryListener) Addr() net.Addr                 { return netAddr(l.at) }

func netAddr(a multiaddr.Multiaddr) net.Addr {
	first, _ := multiaddr.SplitLast(a) // without its quic-v1
	addr, err := manet.ToNetAddr(first)
	if err != nil {
		return &net.UDPAddr{}
	}
	return addr
}
