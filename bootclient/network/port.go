package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// ethernetMTU is the MTU of a network card unless somebody sets another one.
const ethernetMTU = 1500

// A port is one network interface that is used: a wired Ethernet interface, a VLAN or a bond.
type port struct {
	index     int
	rank      int // decides between ports that are equal; unlike the index, it stays small when VLANs are made again
	name      string
	kind      string // ethernet, vlan, bond
	driver    string
	link      netlink.Link
	permanent net.HardwareAddr // before a random one
	bond      string           // of which the port is a member
	plan      plan
	restarted bool // it was taken down and up again
	carrier   bool
	hadLink   bool               // it had a link before this one
	moved     bool               // the link was lost since the lease: it may be another network
	ctx       context.Context    // of the tasks, until the link is lost
	stop      context.CancelFunc // of ctx
	err       error              // of the last step that failed

	static    []bootargs.IP
	lease     *lease
	mtu       int // that the port has
	requests4 int // DHCPv4 messages without an answer since the link
	linkLocal netip.Addr
	claiming  bool               // the task that has linkLocal runs
	stopLocal context.CancelFunc // of that task

	ready6  bool // the link-local IPv6 address can be used
	raFlags uint32
	asking6 bool // the task of DHCPv6 runs
	// addresses6 says that it asks for addresses, and not only for name servers; stop6 ends it.
	addresses6 bool
	stop6      context.CancelFunc
	lease6     *lease6
	requests6  int
	addrs6     map[netip.Prefix]bool // that reach other networks
	rdnss      []*rdnss              // of router advertisements, by router
	named      map[netip.Addr]bool   // servers of them that were reported

	routes      []netlink.Route // installed
	gatewayDead bool            // the gateway does not answer ARP
	reaches4    bool            // a source accepted a connection from this port
	reaches6    bool
	copy6       *netlink.Route // copy of the default route of a router, preferred to all others
}

// A plan is what a port tries.
type plan struct {
	dhcp4, ra, autoconf, dhcp6 bool
	linkLocal                  bool // at once
	fallback                   bool // link-local, when DHCPv4 gets no answer
	late6                      bool // IPv6 only when DHCPv4 gets no answer
	common                     bool // the port may have the static addresses without a port
	static                     []bootargs.IP
	servers                    []netip.Addr
	mtu                        int
}

// idle reports whether the port gets no address.
func (p plan) idle() bool {
	return !p.dhcp4 && !p.ra && !p.linkLocal && !p.common && len(p.static) == 0
}

// ipv6 reports whether IPv6 is switched on.
func (p plan) ipv6() bool {
	return p.ra || slices.ContainsFunc(p.static, func(s bootargs.IP) bool { return s.Address.Addr().Is6() })
}

// planOf returns the plan of a port. Arguments that name it replace those for every port. A port of a
// VLAN or a bond has no addresses of its own unless an argument names it, and neither has any
// other port when all arguments name ports.
func (n *Network) planOf(p *port) plan {
	var named, common []bootargs.IP
	for _, a := range n.IP {
		if a.Device == "" {
			common = append(common, a)
		} else if p.is(a.Device) {
			named = append(named, a)
		}
	}
	switch {
	case p.bond != "":
		return plan{}
	case len(named) > 0:
		return n.merge(named)
	case n.carries(p) || len(n.IP) > 0 && len(common) == 0:
		return plan{}
	case len(common) == 0:
		return n.merge([]bootargs.IP{{Method: bootargs.MethodAny}})
	}
	all := n.merge(common)
	all.common, all.static = len(all.static) > 0, nil
	return all
}

// merge combines the arguments of one port.
func (n *Network) merge(list []bootargs.IP) (p plan) {
	for _, a := range list {
		switch a.Method {
		case bootargs.MethodAny:
			p.dhcp4, p.ra, p.autoconf = true, true, true
			p.fallback, p.late6 = !n.Private, n.Private
		case bootargs.MethodDHCP:
			p.dhcp4 = true
		case bootargs.MethodAuto6:
			p.ra, p.autoconf = true, true
		case bootargs.MethodDHCP6:
			p.ra, p.dhcp6 = true, true
		case bootargs.MethodLinkLocal:
			p.linkLocal = true
		case bootargs.MethodStatic:
			p.static = append(p.static, a)
		}
		p.servers = append(p.servers, a.Servers...)
		p.mtu = max(p.mtu, a.MTU)
	}
	named6 := slices.ContainsFunc(list, func(a bootargs.IP) bool {
		return a.Method == bootargs.MethodAuto6 || a.Method == bootargs.MethodDHCP6 || a.Method == bootargs.MethodStatic && a.Address.Addr().Is6()
	})
	p.late6 = p.late6 && !named6
	return p
}

// carries reports whether a VLAN is on the port.
func (n *Network) carries(p *port) bool {
	return slices.ContainsFunc(n.VLANs, func(v bootargs.VLAN) bool { return p.is(v.Parent) })
}

// is reports whether a selector names the port: its name, its MAC address or its driver.
func (p *port) is(selector string) bool {
	return selector == p.name || selector == p.driver || selector == p.permanent.String()
}

// uses reports whether a port is configured at all.
func (n *Network) uses(p *port) bool {
	if p.kind != "ethernet" {
		return n.made(p.name)
	}
	if len(n.Interfaces) == 0 || slices.ContainsFunc(n.Interfaces, p.is) || n.carries(p) || p.bond != "" {
		return true
	}
	return slices.ContainsFunc(n.IP, func(a bootargs.IP) bool { return a.Device != "" && p.is(a.Device) })
}

// Uses reports whether a link is a port that the arguments use.
func (c Config) Uses(link netlink.Link) bool {
	n := &Network{Config: c}
	p := newPort(link)
	p.bond = n.bondOf(p)
	return Wired(link) && n.uses(p)
}

// newPort describes an interface.
func newPort(link netlink.Link) *port {
	a := link.Attrs()
	p := &port{
		index: a.Index, name: a.Name, kind: "ethernet", link: link, permanent: a.HardwareAddr, driver: driverOf(link),
		addrs6: map[netip.Prefix]bool{}, named: map[netip.Addr]bool{}, stop: func() {}, stopLocal: func() {}, stop6: func() {},
	}
	if t := link.Type(); t == "vlan" || t == "bond" {
		p.kind = t
	}
	if len(a.PermHWAddr) == 6 {
		p.permanent = a.PermHWAddr
	}
	return p
}

// driverOf returns the name of an interface's driver.
func driverOf(link netlink.Link) string {
	if to, err := os.Readlink(filepath.Join("/sys/class/net", link.Attrs().Name, "device/driver")); err == nil {
		return filepath.Base(to)
	}
	return link.Type()
}

// Wired reports whether a link is a wired Ethernet interface: not lo, not wireless, not a software
// bridge or tunnel.
func Wired(link netlink.Link) bool {
	a := link.Attrs()
	if a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 {
		return false
	}
	if _, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "phy80211")); err == nil {
		return false
	}
	return slices.Contains([]string{"device", "veth"}, link.Type())
}

// otherPorts describes the wired interfaces of the machine.
func otherPorts() (out []string) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	for _, l := range links {
		if Wired(l) {
			p := newPort(l)
			out = append(out, fmt.Sprintf("%s (%s, %s)", p.name, p.permanent, p.driver))
		}
	}
	return out
}

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

// freeRank returns the lowest rank that no port has.
func (n *Network) freeRank() (rank int) {
	has := func(p *port) bool { return p.rank == rank }
	for slices.ContainsFunc(slices.Collect(maps.Values(n.ports)), has) {
		rank++
	}
	return rank
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
	if err := n.setIPv6(p, p.plan.ipv6() && !p.plan.late6); err != nil {
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

// newMAC returns a random unicast address with the locally-administered bit.
func newMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}

// flush removes the IPv4 addresses of an interface, and the routes of an earlier attempt.
func flush(link netlink.Link) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for i := range addrs {
		// The kernel removes secondary addresses with their primary one.
		if err := netlink.AddrDel(link, &addrs[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("old address %s: %w", addrs[i].IPNet, err)
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
		n.startDHCP4(p)
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
		if i := slices.IndexFunc(n.sorted(), func(o *port) bool { return o.carrier && o.plan.common }); i >= 0 {
			n.own(n.sorted()[i])
		}
	}
	n.writeServers()
	n.checkPaths()
}

// own gives a port the static addresses without a port, and takes them from the port that had them.
func (n *Network) own(p *port) {
	if n.owner != nil && n.owner != p {
		n.withdraw(n.owner)
	}
	n.owner = p
	for _, a := range n.IP {
		if a.Device == "" && a.Method == bootargs.MethodStatic {
			n.applyStatic(p, a)
		}
	}
}

// sorted returns the ports, the preferred ones first.
func (n *Network) sorted() []*port {
	list := make([]*port, 0, len(n.ports))
	for _, p := range n.ports {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *port) int { return a.metric() - b.metric() })
	return list
}

// answered reports whether a port has got its first answer.
func (p *port) answered() bool {
	if p.plan.dhcp4 {
		return p.lease != nil
	}
	return len(p.static) > 0 || p.linkLocal.IsValid() || len(p.addrs6) > 0
}

// unaddressed reports whether a port has no address that is known to be of the network on its link.
func (p *port) unaddressed() bool {
	return (p.lease == nil || p.moved) && len(p.static) == 0 && len(p.addrs6) == 0
}

// failure says what was tried on a port without an address.
func (p *port) failure() string {
	switch {
	case p.bond != "" && p.err == nil, p.carrier && p.plan.idle() && p.err == nil:
		return ""
	case !p.carrier && p.err == nil:
		return "no link; check the cable"
	}
	var tried []string
	if p.plan.dhcp4 {
		tried = append(tried, fmt.Sprintf("a DHCP server (%s)", count(p.requests4, "request")))
	}
	if p.plan.ra && !p.plan.late6 {
		tried = append(tried, "an IPv6 router")
	}
	if p.requests6 > 0 {
		tried = append(tried, fmt.Sprintf("a DHCPv6 server (%s)", count(p.requests6, "request")))
	}
	switch {
	case p.err != nil:
		return p.err.Error()
	case len(tried) == 0:
		return "no address yet"
	}
	return "no answer from " + strings.Join(tried, " or ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// addrChanged handles an address that the kernel lists or that has changed.
func (n *Network) addrChanged(u netlink.AddrUpdate) {
	if p := n.ports[u.LinkIndex]; p != nil && u.LinkAddress.IP.To4() == nil {
		n.address6(p, &u.LinkAddress, u.Flags, u.Scope, u.NewAddr)
	}
}

// address6 handles an IPv6 address of a port. An address counts once duplicate address detection has
// passed, and if it reaches other networks: a link-local address alone finds no source.
func (n *Network) address6(p *port, at *net.IPNet, flags, scope int, exists bool) {
	unusable := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	prefix, ok := prefixOf(at)
	usable := ok && exists && flags&unusable == 0
	if flags&unix.IFA_F_DADFAILED != 0 && exists {
		n.Report("network: %s: %s is the address of another machine too; it is not used", p.name, prefix)
	}
	switch {
	case !ok:
	case at.IP.IsLinkLocalUnicast():
		if p.ready6 = usable; usable {
			n.startDHCP6(p)
		}
	case !at.IP.IsGlobalUnicast() || scope != unix.RT_SCOPE_UNIVERSE:
	case !usable:
		delete(p.addrs6, prefix)
	case !p.addrs6[prefix]:
		p.addrs6[prefix] = true
		n.found("%s %s %s", p.name, prefix, n.origin(p, prefix))
		n.checkPaths()
	}
}

// origin says where an IPv6 address comes from.
func (n *Network) origin(p *port, prefix netip.Prefix) string {
	switch {
	case slices.ContainsFunc(p.static, func(s bootargs.IP) bool { return s.Address == prefix }):
		return "from the command line"
	case p.lease6 != nil && p.lease6.addr == prefix.Addr():
		return "from a DHCPv6 server"
	}
	return "from IPv6 router advertisements"
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
