package limit

import (
	"net/netip"
)

const ip6Net = 56 // bits of an IPv6 address that name one subscriber

// Asker names who is behind a remote address ("IP:port"): the IPv4 address, the /56 of an
// IPv6 address, or the text itself when it is none.
func Asker(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	net, err := ip.Prefix(ip6Net)
	if err != nil {
		return remote
	}
	return net.String()
}
