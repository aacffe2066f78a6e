package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkChanged handles a link that the kernel lists or that has changed.
func (n *Network) linkChanged(u netlink.LinkUpdate) {
	a := u.Attrs()
	p := n.ports[a.Index]
	if u.Header.Type == unix.RTM_DELLINK {
		if p != nil && u.IfInfomsg.Family == unix.AF_UNSPEC {
			n.linkLost(p)
			if delete(n.ports, a.Index); n.owner == p {
				n.owner = nil
			}
		}
		return
	}
	if p == nil {
		if !Wired(u.Link) && !n.made(a.Name) {
			return
		}
		if p = newPort(u.Link); !n.adopt(p) || p.restarted {
			return // the next event has the flags of the port
		}
	}
	up := u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0 && u.IfInfomsg.Flags&unix.IFF_UP != 0
	switch {
	case up && !p.carrier:
		n.linkFound(p)
	case !up && p.carrier:
		n.linkLost(p)
	}
}

// adopt brings up a new port, unless it is not used. An error is reported, and the port is listed with
// it.
func (n *Network) adopt(p *port) (used bool) {
	p.bond = n.bondOf(p)
	if !n.uses(p) {
		return false
	}
	p.plan, p.rank = n.planOf(p), n.freeRank()
	n.ports[p.index] = p
	if p.err = n.setUp(p); p.err != nil {
		n.Report("network: %s: %v", p.name, p.err)
	}
	n.addVLANs(p)
	addrs, _ := netlink.AddrList(p.link, netlink.FAMILY_V6) // those of an earlier attempt
	for _, a := range addrs {
		n.address6(p, a.IPNet, a.Flags, a.Scope, true)
	}
	for _, m := range interfaceFlags() { // the kernel repeats none that stays the same
		if m.index == p.index {
			p.raFlags = m.flags
		}
	}
	return true
}

// setUp brings up a port, with a random MAC address if the mode asks for one, or makes it a member of
// its bond.
func (n *Network) setUp(p *port) error {
	if n.Private && p.kind == "ethernet" {
		mac, err := newMAC()
		if err != nil {
			return err
		}
		p.restarted = true
		// Some drivers refuse a new address while the interface is up.
		if err := errors.Join(netlink.LinkSetDown(p.link), netlink.LinkSetHardwareAddr(p.link, mac)); err != nil {
			return fmt.Errorf("random hardware address: %w; the interface stays down", err)
		}
	}
	if p.bond != "" {
		p.restarted = true
		return n.enslave(p)
	}
	if err := p.setMTU(); err != nil { // first: Linux has no IPv6 settings for an interface below minMTU6
		return err
	}
	if err := p.setIPv6(p.plan.ipv6() && !p.plan.late6); err != nil {
		if n.Private {
			return fmt.Errorf("%w; the interface stays down", err)
		}
		n.Report("network: %s: %v", p.name, err)
	}
	if err := flush(p.link); err != nil {
		return err
	}
	return netlink.LinkSetUp(p.link)
}

// setMTU sets the MTU of the command line. Without one it takes back the smaller one that a DHCP server
// gave to an earlier attempt; a card whose own is smaller refuses that.
func (p *port) setMTU() error {
	a := p.link.Attrs()
	if p.plan.mtu > 0 {
		if err := netlink.LinkSetMTU(p.link, p.plan.mtu); err != nil {
			return fmt.Errorf("MTU %d: %w", p.plan.mtu, err)
		}
		a.MTU = p.plan.mtu
	} else if p.kind == "ethernet" && a.MTU < ethernetMTU && netlink.LinkSetMTU(p.link, ethernetMTU) == nil {
		a.MTU = ethernetMTU
	}
	p.mtu = a.MTU
	return nil
}

// flush removes the IPv4 addresses of an interface, and the routes of an earlier attempt.
func flush(link netlink.Link) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for i := range addrs {
		if err := delAddr(link, &addrs[i]); err != nil {
			return err
		}
	}
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: routeProtocol}
	routes, _ := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	for i := range routes {
		_ = netlink.RouteDel(&routes[i])
	}
	return nil
}

// linkFound starts the tasks of a port that has got a link.
func (n *Network) linkFound(p *port) {
	p.carrier, p.requests4, p.requests6 = true, 0, 0
	p.ctx, p.stop = context.WithCancel(n.ctx)
	if p.hadLink && !p.plan.idle() {
		n.Report("network: %s: the link is back", p.name)
	}
	for _, s := range p.plan.static {
		n.applyStatic(p, s)
	}
	if p.plan.common && (n.owner == nil || n.owner == p || !n.owner.carrier) {
		n.own(p)
	}
	if p.plan.dhcp4 {
		go n.runDHCP4(p.ctx, p)
	}
	if p.plan.linkLocal {
		n.startLinkLocal(p)
	}
	if p.plan.ra && p.ready6 && (p.hadLink || p.raFlags != 0) {
		if err := solicitRouter(p.ctx, p.name); err != nil {
			n.Report("network: %s: %v", p.name, err)
		}
	}
	n.startDHCP6(p)
	p.hadLink = true
}

// linkLost ends the tasks of a port. Its addresses stay until the link is back: a cable that is put
// back in a moment ends no connection. The kernel sends nothing through a port without a link.
func (n *Network) linkLost(p *port) {
	if !p.carrier {
		return
	}
	p.carrier, p.asking6, p.moved = false, false, true
	p.stop()
	n.stopLinkLocal(p)
	if !p.plan.idle() {
		n.Report("network: %s: the link is lost", p.name)
	}
	if n.owner == p {
		for _, other := range n.sorted() {
			if other.carrier && other.plan.common {
				n.own(other)
				break
			}
		}
	}
	n.writeServers()
	n.checkPaths()
}
