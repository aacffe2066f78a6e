package p2p

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const maxHTTPAddrs = 8 // of one peer

// HTTPAddrs returns the plain HTTP origins, "http://IP:PORT", that a connected peer announced
// through identify. Only those on the IP of a connection to the peer count: other addresses would
// let a peer direct our requests to any host.
func (n *Node) HTTPAddrs(id peer.ID) []string {
	remote := map[netip.Addr]bool{}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		if ip, ok := IPOf(c.RemoteMultiaddr()); ok {
			remote[ip] = true
		}
	}
	return originsAt(n.host.Peerstore().Addrs(id), remote)
}

// originsAt returns the plain HTTP origins among addrs that are on one of the remote IPs.
func originsAt(addrs []multiaddr.Multiaddr, remote map[netip.Addr]bool) []string {
	var out []string
	for _, a := range addrs {
		ip, ok := IPOf(a)
		if !ok || !isHTTP(a) || !remote[ip] || len(out) == maxHTTPAddrs {
			continue
		}
		out = append(out, origin(a))
	}
	return out
}

// Endpoints are the addresses at which other machines reach a server.
type Endpoints struct {
	Peer   string   `json:"peer"`
	HTTP   []string `json:"http"`   // origins, http://IP:PORT
	Listen []string `json:"listen"` // multiaddrs with /p2p/ID
}

// Endpoints returns the addresses of the Node and of a plain HTTP listener, which may be nil.
func (n *Node) Endpoints(l net.Listener) Endpoints {
	e := Endpoints{Peer: n.ID().String(), HTTP: Origins(l), Listen: []string{}}
	for _, a := range n.Addrs() {
		e.Listen = append(e.Listen, a.String())
	}
	return e
}

// ListenerAddrs converts the address of a plain HTTP listener for Options.HTTP. A listener on [::]
// also accepts IPv4.
func ListenerAddrs(l net.Addr) []multiaddr.Multiaddr {
	tcp, ok := l.(*net.TCPAddr)
	if !ok {
		return nil
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return nil
	}
	texts := []string{fmt.Sprintf("/ip4/%s/tcp/%d/http", ip.Unmap(), tcp.Port)}
	if ip.Unmap().Is6() {
		texts[0] = fmt.Sprintf("/ip6/%s/tcp/%d/http", ip.WithZone(""), tcp.Port)
	}
	if ip == netip.IPv6Unspecified() {
		texts = append(texts, fmt.Sprintf("/ip4/0.0.0.0/tcp/%d/http", tcp.Port))
	}
	out, err := ParseAddrs(texts)
	if err != nil {
		return nil
	}
	return out
}

// Origins returns "http://IP:PORT" for each address of this machine on which l, which may be nil,
// accepts connections. Addresses that other machines can reach come first.
func Origins(l net.Listener) []string {
	out := []string{}
	if l == nil {
		return out
	}
	addrs := concrete(ListenerAddrs(l.Addr()))
	slices.SortStableFunc(addrs, func(a, b multiaddr.Multiaddr) int { return rank(a) - rank(b) })
	for _, a := range addrs {
		if isHTTP(a) {
			out = append(out, origin(a))
		}
	}
	return out
}

// rank orders addresses: IPv4, IPv6, loopback.
func rank(a multiaddr.Multiaddr) int {
	ip, ok := IPOf(a)
	switch {
	case !ok || ip.IsLoopback():
		return 2
	case ip.Is6():
		return 1
	}
	return 0
}

// origin is the "http://IP:PORT" of an address that isHTTP accepts.
func origin(a multiaddr.Multiaddr) string {
	ip, _ := IPOf(a) // isHTTP has checked that there is one
	return "http://" + net.JoinHostPort(ip.String(), a[1].Value())
}

// ListenTCP opens a plain TCP listener on the address of a flag. The error wraps fs.ErrInvalid if the
// value of the flag is wrong.
func ListenTCP(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, listenError(flag+" "+addr, ":PORT", err)
	}
	return l, nil
}

// ListenHost is ListenTCP for a flag whose address always names a host: 0.0.0.0 is every IPv4 address of the machine.
func ListenHost(flag, addr string) (net.Listener, error) {
	network := "tcp"
	if host, _, err := net.SplitHostPort(addr); err == nil && host == "0.0.0.0" {
		network = "tcp4"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, listenError(flag+" "+addr, "0.0.0.0:PORT", err)
	}
	return l, nil
}
