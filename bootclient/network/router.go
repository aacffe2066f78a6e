package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// Flags of an interface in IFLA_INET6_FLAGS (linux/if_link.h has no names for them).
	raManaged = 0x40 // DHCPv6 has addresses
	raOther   = 0x80 // DHCPv6 has name servers

	attrMask = 0x3fff // of the type of a netlink attribute, without NLA_F_NESTED

	routerAttr = 1 // NDUSEROPT_SRCADDR of linux/rtnetlink.h

	optionRDNSS = 25 // RFC 8106
	maxRDNSS    = 8  // servers of one router
	maxRouters  = 8  // whose servers are kept
	maxNamed    = 16 // servers that are reported, each once
	forever     = 0xffffffff
)

// A routerMessage is what the kernel says of the IPv6 routers of an interface: the flags of their
// advertisements, or name servers.
type routerMessage struct {
	index    int
	flags    uint32
	hasFlags bool
	router   netip.Addr // that named the servers; invalid if the kernel does not say it
	servers  []netip.Addr
	lifetime time.Duration // of the servers; 0 withdraws them
}

// parseRouterMessage reads RTM_NEWLINK of the family AF_INET6, and RTM_NEWNDUSEROPT.
func parseRouterMessage(m syscall.NetlinkMessage) (r routerMessage, ok bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK:
		return parseFlags(m.Data)
	case unix.RTM_NEWNDUSEROPT:
		return parseUserOption(m.Data)
	}
	return r, false
}

// parseFlags reads struct ifinfomsg and IFLA_PROTINFO.
func parseFlags(data []byte) (r routerMessage, ok bool) {
	if len(data) < unix.SizeofIfInfomsg || data[0] != unix.AF_INET6 {
		return r, false
	}
	r.index = int(int32(binary.NativeEndian.Uint32(data[4:])))
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return r, false
	}
	for _, a := range attrs {
		if a.Attr.Type&attrMask != unix.IFLA_PROTINFO {
			continue
		}
		inner, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return r, false
		}
		for _, i := range inner {
			if i.Attr.Type&attrMask == unix.IFLA_INET6_FLAGS && len(i.Value) >= 4 {
				r.flags, r.hasFlags = binary.NativeEndian.Uint32(i.Value), true
			}
		}
	}
	return r, r.hasFlags
}

// parseUserOption reads struct nduseroptmsg, the neighbour discovery option after it, which has the
// format of RFC 8106, and the address of the router after that.
func parseUserOption(data []byte) (r routerMessage, ok bool) {
	const header = 16
	if len(data) < header+8 || data[0] != unix.AF_INET6 {
		return r, false
	}
	r.index = int(int32(binary.NativeEndian.Uint32(data[4:])))
	length := int(binary.NativeEndian.Uint16(data[2:]))
	option := data[header:]
	if length > len(option) || length < 8 || option[0] != optionRDNSS || int(option[1])*8 != length {
		return r, false
	}
	lifetime := binary.BigEndian.Uint32(option[4:])
	r.lifetime = time.Duration(lifetime) * time.Second
	if lifetime == forever {
		r.lifetime = 365 * 24 * time.Hour
	}
	for chunk := range slices.Chunk(option[8:length], 16) {
		if len(chunk) < 16 || len(r.servers) == maxRDNSS {
			break
		}
		if a, ok := netip.AddrFromSlice(chunk); ok && usableServer(a) {
			r.servers = append(r.servers, a)
		}
	}
	attrs, err := nl.ParseRouteAttr(option[length:])
	for _, a := range attrs {
		if router, ok := netip.AddrFromSlice(a.Value); ok && err == nil && a.Attr.Type&attrMask == routerAttr {
			r.router = router
		}
	}
	return r, len(r.servers) > 0
}

// routerMessage handles a message about the routers of a port.
func (n *Network) routerMessage(m routerMessage) {
	p := n.ports[m.index]
	if p == nil || !p.plan.ra {
		return
	}
	if m.hasFlags {
		p.raFlags = m.flags
		n.startDHCP6(p)
		return
	}
	n.routerServers(p, m, time.Now())
	n.writeServers()
}

// rdnss are the name servers that one router has named.
type rdnss struct {
	router  netip.Addr
	heard   time.Time // last
	servers map[netip.Addr]time.Time
}

// routerServers records the name servers of a router. It keeps maxRDNSS of each router and the routers
// heard last, so that one host that names many shuts out no other router.
func (n *Network) routerServers(p *port, m routerMessage, now time.Time) {
	for _, r := range p.rdnss {
		maps.DeleteFunc(r.servers, func(_ netip.Addr, until time.Time) bool { return !until.After(now) })
	}
	r := p.rdnssOf(m.router)
	r.heard = now
	for _, a := range m.servers {
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(p.name)
		}
		if delete(r.servers, a); m.lifetime == 0 || len(r.servers) == maxRDNSS {
			continue
		}
		if r.servers[a] = now.Add(m.lifetime); len(p.named) < maxNamed && !p.named[a] {
			p.named[a] = true
			n.Report("network: %s: name server %s from IPv6 router advertisements", p.name, a)
		}
	}
}

// rdnssOf returns the record of a router, which may replace that of the router heard longest ago.
func (p *port) rdnssOf(router netip.Addr) *rdnss {
	if i := slices.IndexFunc(p.rdnss, func(r *rdnss) bool { return r.router == router }); i >= 0 {
		return p.rdnss[i]
	}
	p.rdnss = slices.DeleteFunc(p.rdnss, func(r *rdnss) bool { return len(r.servers) == 0 })
	if len(p.rdnss) == maxRouters {
		oldest := slices.MinFunc(p.rdnss, func(a, b *rdnss) int { return a.heard.Compare(b.heard) })
		p.rdnss = slices.DeleteFunc(p.rdnss, func(r *rdnss) bool { return r == oldest })
	}
	r := &rdnss{router: router, servers: map[netip.Addr]time.Time{}}
	p.rdnss = append(p.rdnss, r)
	return r
}

// rdnssServers returns the name servers of router advertisements that are valid: the first of each
// router, the router known longest first, then the second of each. Those of one router are sorted.
func (p *port) rdnssServers(now time.Time) []netip.Addr {
	var lists [][]netip.Addr
	for _, r := range p.rdnss {
		var list []netip.Addr
		for a, until := range r.servers {
			if until.After(now) {
				list = append(list, a)
			}
		}
		slices.SortFunc(list, netip.Addr.Compare)
		lists = append(lists, list)
	}
	return inTurn(lists)
}

// solicitRouter sends a router solicitation (RFC 4861). The kernel sends its own only when an
// interface is brought up, and not when its link comes back.
func solicitRouter(ctx context.Context, name string) error {
	var optionErr error
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) {
			optionErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
		})
		return errors.Join(err, optionErr)
	}}
	conn, err := c.ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return fmt.Errorf("router solicitation: %w", err)
	}
	defer conn.Close()
	solicitation := []byte{133, 0, 0, 0, 0, 0, 0, 0}
	_, err = conn.WriteTo(solicitation, &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: name})
	return err
}
