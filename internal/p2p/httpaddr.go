package p2p

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const maxHTTPAddrs = 8 // taken of one peer

// HTTPAddrs returns the plain HTTP origins, "http://IP:PORT", that a connected peer
// told us through identify. Only those on the very IP at which we are connected to it
// count: anything else would let a peer aim us at a stranger.
func (n *Node) HTTPAddrs(id peer.ID) []string {
	remote := map[netip.Addr]bool{}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		if ip, ok := ipOf(c.RemoteMultiaddr()); ok {
			remote[ip] = true
		}
	}
	return originsAt(n.host.Peerstore().Addrs(id), remote)
}

// originsAt returns the plain HTTP origins of a peer's addresses that are on one of the IPs.
func originsAt(addrs []multiaddr.Multiaddr, remote map[netip.Addr]bool) []string {
	var out []string
	for _, a := range addrs {
		ip, ok := ipOf(a)
		if !ok || !isHTTP(a) || !remote[ip] || len(out) == maxHTTPAddrs {
			continue
		}
		out = append(out, origin(a))
	}
	return out
}

// ListenerAddrs turns the address of a plain HTTP listener into what Options.HTTP
// takes. A listener on [::] also answers on IPv4.
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

// Origins returns "http://IP:PORT" for each of our addresses that listeners answer on,
// those that other machines can reach first.
func Origins(listeners []multiaddr.Multiaddr) []string {
	addrs := concrete(listeners)
	slices.SortStableFunc(addrs, func(a, b multiaddr.Multiaddr) int { return rank(a) - rank(b) })
	var out []string
	for _, a := range addrs {
		if isHTTP(a) {
			out = append(out, origin(a))
		}
	}
	return out
}

// rank puts addresses that other machines can reach first, IPv4 before IPv6.
func rank(a multiaddr.Multiaddr) int {
	ip, ok := ipOf(a)
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
	ip, _ := ipOf(a) // isHTTP and a lookup before it have seen the IP
	return "http://" + net.JoinHostPort(ip.String(), a[1].Value())
}

// ListenerError words the refusal of a plain TCP listener that flag asked for. One that the
// flag is to blame for wraps fs.ErrInvalid.
func ListenerError(flag string, err error) error {
	var addr *net.AddrError
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: address in use; choose another port or stop the other process", flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: not an address of this machine; name one of its own, or :PORT for all: %w", flag, fs.ErrInvalid)
	case errors.As(err, &addr), errors.As(err, &dns):
		return fmt.Errorf("%s: write it as HOST:PORT or :PORT (%w): %w", flag, err, fs.ErrInvalid)
	}
	return fmt.Errorf("%s: %w", flag, err)
}
