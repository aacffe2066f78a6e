package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	maxRoutes       = 32  // used of one lease
	maxLeaseServers = 3   // name servers used of one lease, of DHCPv4 or DHCPv6
	minMTU4         = 576 // taken from a lease
	optionMirror    = 224
	maxMirror       = 200 // bytes
)

// A lease is a checked answer of a DHCP server, as kernel addresses and routes.
type lease struct {
	addr    *net.IPNet
	routes  []netlink.Route // without metric
	servers []netip.Addr    // DNS
	from    net.IP
	mirror  string // a hint; "" for none

	router           netip.Addr // the first one, may be invalid
	domain, hostname string
	ntp              []netip.Addr
	mtu              int
	until            time.Time     // zero for ever
	renew            time.Duration // after the answer; 0 for never
	answer           *nclient4.Lease
}

// readLease checks a DHCP acknowledgement, which any host on the link may have sent.
func readLease(ack *dhcpv4.DHCPv4, index int) (*lease, error) {
	ip := ack.YourIPAddr.To4()
	if ip == nil || !ip.IsGlobalUnicast() {
		return nil, fmt.Errorf("DHCP: address %.40q is not usable for a host", ack.YourIPAddr.String())
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ip.DefaultMask()
	}
	if ones, bits := mask.Size(); bits != 32 || ones == 0 {
		return nil, errors.New("DHCP: invalid subnet mask")
	}
	l := &lease{addr: &net.IPNet{IP: ip, Mask: mask}, from: ack.ServerIdentifier(), mirror: mirrorOf(ack)}
	l.servers = addrs4(ack.DNS())
	l.servers = l.servers[:min(len(l.servers), maxLeaseServers)]
	l.ntp = addrs4(ack.NTPServers())
	if routers := addrs4(ack.Router()); len(routers) > 0 {
		l.router = routers[0]
	}
	l.domain, l.hostname = hostName(ack.DomainName()), hostName(ack.HostName())
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= minMTU4 {
		l.mtu = int(mtu)
	}
	l.setTimes(ack, time.Now())
	l.routes = leaseRoutes(ack, index, l)
	return l, nil
}

// setTimes sets when a lease ends and is renewed. A time that is too short counts as renewLeast.
func (l *lease) setTimes(ack *dhcpv4.DHCPv4, now time.Time) {
	duration := ack.IPAddressLeaseTime(0)
	if duration <= 0 || duration >= forever*time.Second {
		return
	}
	l.until = now.Add(duration)
	l.renew = max(renewLeast, min(ack.IPAddressRenewalTime(duration/2), duration/2))
}

// addrs4 returns the usable addresses of an option.
func addrs4(list []net.IP) (out []netip.Addr) {
	for _, ip := range list {
		a, ok := netip.AddrFromSlice(ip)
		if a = a.Unmap(); ok && a.Is4() && usableServer(a) && len(out) < maxRoutes {
			out = append(out, a)
		}
	}
	return out
}

var hostNames = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?$`)

// hostName returns a name if it is a host or domain name, else "".
func hostName(s string) string {
	if !hostNames.MatchString(s) {
		return ""
	}
	return s
}

// mirrorOf returns the mirror of option 224, "" if it is not an http or https URL.
func mirrorOf(ack *dhcpv4.DHCPv4) string {
	s := string(ack.Options.Get(dhcpv4.GenericOptionCode(optionMirror)))
	if len(s) > maxMirror || !webMirror.MatchString(s) || bootargs.CheckMirror(s) != nil {
		return ""
	}
	return s
}

var webMirror = regexp.MustCompile(`^https?://[!-~]+$`)

// leaseRoutes returns the classless routes or, without any, a route over the first router
// (RFC 3442 requires this order), and routes to the name servers that only the default route reaches:
// the default route may be that of another port.
func leaseRoutes(ack *dhcpv4.DHCPv4, index int, l *lease) []netlink.Route {
	wanted := ack.ClasslessStaticRoute()
	if len(wanted) == 0 && l.router.IsValid() {
		wanted = []*dhcpv4.Route{{Dest: anywhere4, Router: l.router.AsSlice()}}
	}
	var routes []netlink.Route
	for _, w := range wanted[:min(len(wanted), maxRoutes)] {
		gw := w.Router.To4()
		if w.Dest == nil || gw == nil || gw.IsMulticast() || gw.IsLoopback() {
			continue
		}
		// RFC 3442: the client clears the bits of the destination outside its mask.
		to := &net.IPNet{IP: w.Dest.IP.Mask(w.Dest.Mask), Mask: w.Dest.Mask}
		routes = append(routes, routeVia(index, to, gw))
	}
	for _, r := range routes {
		if !isDefault(r) || r.Gw == nil {
			continue
		}
		for _, s := range l.servers {
			other := func(r netlink.Route) bool { return !isDefault(r) && r.Dst.Contains(s.AsSlice()) }
			if !l.addr.Contains(s.AsSlice()) && !slices.ContainsFunc(routes, other) {
				routes = append(routes, routeVia(index, netOf(netip.PrefixFrom(s, 32)), r.Gw))
			}
		}
		break
	}
	return routes
}
