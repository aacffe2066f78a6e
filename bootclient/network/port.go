package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

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

// is reports whether a selector names the port: its name, its MAC address or its driver.
func (p *port) is(selector string) bool {
	return selector == p.name || selector == p.driver || selector == p.permanent.String()
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

// wiredPorts describes the wired interfaces of the machine.
func wiredPorts() (out []string) {
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

// freeRank returns the lowest rank that no port has.
func (n *Network) freeRank() (rank int) {
	has := func(p *port) bool { return p.rank == rank }
	for slices.ContainsFunc(slices.Collect(maps.Values(n.ports)), has) {
		rank++
	}
	return rank
}

// sorted returns the ports, the preferred ones first.
func (n *Network) sorted() []*port {
	return slices.SortedFunc(maps.Values(n.ports), func(a, b *port) int { return a.metric() - b.metric() })
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
	case p.err != nil:
		return p.err.Error()
	case p.bond != "", p.carrier && p.plan.idle():
		return ""
	case !p.carrier:
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
	if len(tried) == 0 {
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
