package limit

import (
	"net/netip"
)

const ip6Prefix = 56 // bits of an IPv6 address that name one subscriber

// ClientKey returns the key under which limits count the client at a remote address
// ("IP:port"): the IPv4 address, the /56 of an IPv6 address, or the text itself if it is not an
// address.
func ClientKey(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	net, err := ip.Prefix(ip6Prefix)
	if err != nil {
		return remote
	}
	return net.String()
}
