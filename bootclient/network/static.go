package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// applyStatic sets an address of the command line and its routes.
func (n *Network) applyStatic(p *port, s bootargs.IP) {
	if err := netlink.AddrReplace(p.link, &netlink.Addr{IPNet: netOf(s.Address)}); err != nil {
		p.err = fmt.Errorf("address %s: %w", s.Address, err)
		n.Report("network: %s: %v", p.name, p.err)
		return
	}
	if !p.hasStatic(s.Address) {
		p.static = append(p.static, s)
	}
	if err := n.installRoutes(p); err != nil {
		n.Report("network: %s: %v", p.name, err)
	}
	if s.Address.Addr().Is4() { // an IPv6 address is found when it is unique
		n.found("%s %s from the command line", p.name, s.Address)
	}
	n.writeServers()
	n.checkPaths()
}

// hasStatic reports whether an address of the port comes from the command line.
func (p *port) hasStatic(at netip.Prefix) bool {
	return slices.ContainsFunc(p.static, func(s bootargs.IP) bool { return s.Address == at })
}

// withdraw removes the static addresses of a port.
func (n *Network) withdraw(p *port) {
	list := p.static
	p.static = nil
	_ = n.installRoutes(p)
	for _, s := range list {
		_ = delAddr(p.link, &netlink.Addr{IPNet: netOf(s.Address)})
	}
}

// own gives a port the static addresses of the arguments that name no port, and takes them from the port
// that had them.
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
