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
	dhcpTimeout = time.Second // before the first repetition; each one waits twice as long
	dhcpTries   = 6           // 1+2+4+8+16+32 seconds, cut by the caller's deadline
	maxRoutes   = 32          // taken from one lease
	routeMetric = 100         // plus the interface's index: the first interface wins
)

// A lease is what a DHCP server said, checked, in the terms of the kernel.
type lease struct {
	addr    *net.IPNet
	routes  []netlink.Route
	servers []net.IP // DNS
	from    net.IP
}

// askDHCP gets a lease for an interface that is up. No host name and no client
// identifier is sent, in any mode: the hardware address is all that a server
// needs.
func askDHCP(ctx context.Context, link netlink.Link) (*lease, error) {
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

// readLease checks an acknowledgement: whatever is on the wire may have sent it.
func readLease(ack *dhcpv4.DHCPv4, index int) (*lease, error) {
	ip := ack.YourIPAddr.To4()
	if ip == nil || !ip.IsGlobalUnicast() {
		return nil, fmt.Errorf("DHCP: %.40q is not an address for a host", ack.YourIPAddr.String())
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ip.DefaultMask()
	}
	if ones, bits := mask.Size(); bits != 32 || ones == 0 {
		return nil, errors.New("DHCP: the subnet mask is not one")
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

// leaseRoutes reads the classless routes or, without any, the first router
// (RFC 3442 wants them in this order).
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
		// RFC 3442: bits of the destination outside its mask are the client's to clear.
		to := &net.IPNet{IP: w.Dest.IP.Mask(w.Dest.Mask), Mask: w.Dest.Mask}
		r := netlink.Route{LinkIndex: index, Dst: to, Priority: routeMetric + index}
		if gw.IsUnspecified() {
			r.Scope = netlink.SCOPE_LINK
		} else {
			// On-link also where the server's mask does not cover the router.
			r.Gw, r.Flags = gw, int(netlink.FLAG_ONLINK)
		}
		routes = append(routes, r)
	}
	return routes
}

// apply gives the interface its address and routes. Those of an earlier attempt go:
// the kernel would go on speaking from the oldest address.
func (l *lease) apply(link netlink.Link) error {
	old, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for i := range old {
		// Its secondaries go with a primary address, so one may be gone already.
		if err := netlink.AddrDel(link, &old[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("address %s of before: %w", old[i].IPNet, err)
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
