package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
		n.found("%s %s %s", p.name, prefix, p.origin(prefix))
		n.checkPaths()
	}
}

// origin says where an IPv6 address comes from.
func (p *port) origin(prefix netip.Prefix) string {
	switch {
	case p.hasStatic(prefix):
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

// delAddr removes an address. One that is gone is no error: the kernel removes secondary addresses with
// their primary one.
func delAddr(link netlink.Link, a *netlink.Addr) error {
	if err := netlink.AddrDel(link, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("old address %s: %w", a.IPNet, err)
	}
	return nil
}
