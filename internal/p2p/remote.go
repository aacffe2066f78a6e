package p2p

import (
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A peer ID costs nothing: whoever invents a thousand of them is still one asker. So a
// stream comes from the address at the other end of its connection, as plain HTTP does; a
// relayed one from that of the relay, whose guests share what one address may have.

// nowhere stands for all connections that have no IP.
const nowhere = "nowhere"

// remoteOf is the "IP:port" that the bytes of a connection go to.
func remoteOf(c network.ConnMultiaddrs) string {
	a := c.RemoteMultiaddr()
	ip, ok := ipOf(a)
	if !ok {
		return nowhere
	}
	return net.JoinHostPort(ip.String(), portOf(a))
}

// portOf is the first TCP or UDP port of a multiaddr, "0" when there is none.
func portOf(a multiaddr.Multiaddr) string {
	for _, c := range a {
		if code := c.Protocol().Code; code == multiaddr.P_TCP || code == multiaddr.P_UDP {
			return c.Value()
		}
	}
	return "0"
}

// placed gives the connections of a listener for streams their network addresses.
type placed struct{ net.Listener }

func (l placed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return placedConn{c, c.(stream).Conn()}, nil
}

// stream is what a connection of gostream is beside a net.Conn.
type stream interface{ Conn() network.Conn }

type placedConn struct {
	net.Conn
	of network.Conn
}

func (c placedConn) RemoteAddr() net.Addr { return remote(remoteOf(c.of)) }

func (c placedConn) peer() peer.ID { return c.of.RemotePeer() }

type remote string

func (r remote) Network() string { return "libp2p" }
func (r remote) String() string  { return string(r) }
