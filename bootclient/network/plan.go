package network

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// A plan is what a port tries.
type plan struct {
	dhcp4, ra, autoconf, dhcp6 bool
	linkLocal                  bool // at once
	fallback                   bool // link-local, when DHCPv4 gets no answer
	late6                      bool // IPv6 only when DHCPv4 gets no answer
	common                     bool // the port may have the static addresses of arguments that name no port
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
