package p2p

import (
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
)

// Limits count a stream by the remote IP of its connection, as they count plain HTTP, because one
// host can make any number of peer IDs. A relayed stream counts for the IP of the relay: all peers
// behind a relay share the limits of one address.

// noAddress is the remote address of connections without an IP.
const noAddress = "unknown"

// remoteAddr returns the remote address of a connection as "IP:port".
func remoteAddr(c network.ConnMultiaddrs) string {
	a := c.RemoteMultiaddr()
	ip, ok := IPOf(a)
	if !ok {
		return noAddress
	}
	return net.JoinHostPort(ip.String(), portOf(a))
}

// portOf returns the first TCP or UDP port of a multiaddr, "0" if there is none.
func portOf(a multiaddr.Multiaddr) string {
	for _, c := range a {
		if code := c.Protocol().Code; code == multiaddr.P_TCP || code == multiaddr.P_UDP {
			return c.Value()
		}
	}
	return "0"
}
