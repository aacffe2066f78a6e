package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	dhcpTimeout = time.Second // before the first repetition; doubled for each further one
	dhcpTries   = 6           // 1+2+4+8+16+32 seconds, or until the caller's deadline
	maxRoutes   = 32          // used of one lease
	routeMetric = 100         // plus the interface's index: the route of the first interface is used
)

// A lease is a checked answer of a DHCP server, as kernel addresses and routes.
type lease struct {
	addr    *net.IPNet
	routes  []netlink.Route
	servers []net.IP // DNS
	from    net.IP
}

// requestLease requests a lease for an interface that is up. In every mode it sends no host name
// and no client identifier: a server needs only the hardware address.
func requestLease(ctx context.Context, link netlink.Link) (*lease, error) {
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	got, err := client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute))
	if err != nil {
		return nil, err
	}
	return readLease(got.ACK, link.Attrs().Index)
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
	l := &lease{addr: &net.IPNet{IP: ip, Mask: mask}, from: ack.ServerIdentifier()}
	for _, s := range ack.DNS() {
		if s4 := s.To4(); s4 != nil && !s4.IsUnspecified() && !s4.IsMulticast() {
			l.servers = append(l.servers, s4)
		}
	}
	l.routes = leaseRoutes(ack, index)
	return l, nil
}

// leaseRoutes returns the classless routes or, without any, a route over the first router
// (RFC 3442 requires this order).
func leaseRoutes(ack *dhcpv4.DHCPv4, index int) []netlink.Route {
	anywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	wanted := ack.ClasslessStaticRoute()
	if routers := ack.Router(); len(wanted) == 0 && len(routers) > 0 {
		wanted = []*dhcpv4.Route{{Dest: anywhere, Router: routers[0]}}
	}
	var routes []netlink.Route
	for _, w := range wanted[:min(len(wanted), maxRoutes)] {
		gw := w.Router.To4()
		if w.Dest == nil || gw == nil || gw.IsMulticast() || gw.IsLoopback() {
			continue
		}
		// RFC 3442: the client clears the bits of the destination outside its mask.
		to := &net.IPNet{IP: w.Dest.IP.Mask(w.Dest.Mask), Mask: w.Dest.Mask}
		r := netlink.Route{LinkIndex: index, Dst: to, Priority: routeMetric + index}
		if gw.IsUnspecified() {
			r.Scope = netlink.SCOPE_LINK
		} else {
			// On-link, because the router may be outside the subnet of the lease.
			r.Gw, r.Flags = gw, int(netlink.FLAG_ONLINK)
		}
		routes = append(routes, r)
	}
	return routes
}

// apply sets the address and the routes of the interface. It removes addresses of an earlier
// attempt, because the kernel would keep sending from the oldest one.
func (l *lease) apply(link netlink.Link) error {
	old, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for i := range old {
		// The kernel removes secondary addresses with their primary one.
		if err := netlink.AddrDel(link, &old[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("old address %s: %w", old[i].IPNet, err)
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: l.addr}); err != nil {
		return fmt.Errorf("address %s: %w", l.addr, err)
	}
	for i := range l.routes {
		if err := netlink.RouteReplace(&l.routes[i]); err != nil {
			return fmt.Errorf("route to %s: %w", l.routes[i].Dst, err)
		}
	}
	return nil
}
