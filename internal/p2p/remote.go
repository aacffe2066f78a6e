package p2p

import (
	"crypto/ed25519"
	"net"
	"net/http"

	"github.com/libp2p/go-libp2p/core/crypto"
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

// RemoteKey returns the Ed25519 key of the peer that sent a request to the handler of Serve, which the
// handshake of its connection has proved. It returns nil for a peer with another kind of key, and for a
// request that came another way.
func RemoteKey(r *http.Request) ed25519.PublicKey {
	conn, ok := r.Context().Value(connKey{}).(network.Conn)
	if !ok {
		return nil
	}
	key := conn.RemotePublicKey()
	if key == nil || key.Type() != crypto.Ed25519 {
		return nil
	}
	raw, err := key.Raw()
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil
	}
	return raw
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
