package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	dhcpTimeout = time.Second     // for the first answer; doubled for the second
	dhcpTries   = 2               // of the first exchange: 1 and 2 seconds
	dhcpLater   = 4 * time.Second // for the answer of each further exchange
	dhcpPause   = 4 * time.Second // longest pause between two of them
	private6At  = 3               // exchanges before a private mode switches on IPv6
	renewLeast  = 30 * time.Second
	minMTU6     = 1280 // of a link with IPv6 (RFC 8200)
	maxMirrors  = 4    // of all leases
)

// runDHCP4 asks for a lease until there is one, and renews it, until the link is lost. It asks for
// ever: the answer of a server that starts late, or behind a switch whose spanning tree is not
// ready, comes at most 8 s later.
func (n *Network) runDHCP4(ctx context.Context, p *port) {
	for failed := 0; ctx.Err() == nil; {
		timeout, tries := dhcpTimeout, dhcpTries
		if failed > 0 {
			timeout, tries = dhcpLater, 1
		}
		l, err := n.requestLease(ctx, p, timeout, tries)
		switch {
		case err != nil:
			failed++
			n.do(ctx, func() { n.dhcpFailed(p, err, tries, failed) })
			if failed > 1 {
				sleep(ctx, rand.N(dhcpPause))
			}
		case n.try(ctx, func() bool { return n.leased(p, l) }):
			failed = 0
			n.hold(ctx, p, l)
		default: // the port does not have the address
			failed = 0
			sleep(ctx, dhcpLater+rand.N(dhcpPause))
		}
	}
}

// sleep waits, at most until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// hold renews a lease until that is no longer possible. The address stays until the lease ends.
func (n *Network) hold(ctx context.Context, p *port, l *lease) {
	for l.renew > 0 {
		sleep(ctx, l.renew)
		if ctx.Err() != nil {
			return
		}
		next, err := n.renewLease(ctx, p, l)
		if err != nil {
			return // and ask anew
		}
		l = next
		n.do(ctx, func() { n.renewed(p, next) })
	}
	<-ctx.Done()
}

// dhcpFailed handles an exchange without a lease.
func (n *Network) dhcpFailed(p *port, err error, tries, failed int) {
	p.requests4 += tries
	if errors.Is(err, nclient4.ErrNoResponse) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	if p.err = err; err != nil && len(p.addrs6) == 0 && failed <= 1 {
		n.Report("network: %s: %v", p.name, err)
	}
	if p.lease != nil && !p.lease.until.IsZero() && time.Now().After(p.lease.until) {
		n.Report("network: %s: the lease of %s has ended, and no DHCP server renews it", p.name, p.lease.addr)
		n.endLease(p)
	}
	if p.plan.fallback && !p.claiming && p.unaddressed() {
		n.startLinkLocal(p)
	}
	if p.plan.late6 && failed == private6At {
		p.plan.late6 = false
		if err := p.setIPv6(true); err != nil {
			n.Report("network: %s: %v", p.name, err)
		}
	}
}

// leased applies a lease. It reports whether the port has the address.
func (n *Network) leased(p *port, l *lease) bool {
	before := p.err
	p.moved = false
	n.stopLinkLocal(p)
	if p.err = n.applyLease(p, l); p.err != nil {
		if before == nil || before.Error() != p.err.Error() {
			n.Report("network: %s: %v", p.name, p.err)
		}
		return false
	}
	n.found("%s %s from DHCP server %s", p.name, l.addr, l.from)
	n.takeMirror(l)
	n.writeServers()
	n.checkPaths()
	return true
}

// renewed applies a renewed lease, whose address is the same.
func (n *Network) renewed(p *port, l *lease) {
	if err := n.applyLease(p, l); err != nil {
		n.Report("network: %s: %v", p.name, err)
	}
	n.writeServers()
}

// applyLease sets the address and the routes of a port. It removes the other addresses, because the
// kernel would keep sending from the oldest one. A route that the kernel refuses is reported and left
// out: the address is of use without it.
func (n *Network) applyLease(p *port, l *lease) error {
	old, err := netlink.AddrList(p.link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for i := range old {
		prefix, _ := prefixOf(old[i].IPNet)
		if old[i].IPNet.String() != l.addr.String() && !p.hasStatic(prefix) {
			if err := delAddr(p.link, &old[i]); err != nil {
				return err
			}
		}
	}
	if err := netlink.AddrReplace(p.link, &netlink.Addr{IPNet: l.addr}); err != nil {
		return fmt.Errorf("address %s: %w", l.addr, err)
	}
	if mtu := p.leaseMTU(l); mtu != p.mtu {
		if err := netlink.LinkSetMTU(p.link, mtu); err != nil {
			n.Report("network: %s: MTU %d of the DHCP server: %v", p.name, l.mtu, err)
		}
		p.mtu = mtu
	}
	p.lease = l
	if err := n.installRoutes(p); err != nil {
		n.Report("network: %s: %v", p.name, err)
	}
	return nil
}

// leaseMTU returns the MTU of a port with a lease. A server may lower it; Linux removes IPv6 from an
// interface with less than minMTU6.
func (p *port) leaseMTU(l *lease) int {
	usual := p.link.Attrs().MTU
	if l.mtu == 0 || p.plan.mtu > 0 {
		return usual
	}
	if p.plan.ipv6() {
		return min(max(l.mtu, minMTU6), usual)
	}
	return min(l.mtu, usual)
}

// endLease removes the address and the routes of a lease.
func (n *Network) endLease(p *port) {
	l := p.lease
	if p.lease = nil; l == nil {
		return
	}
	_ = n.installRoutes(p)
	_ = delAddr(p.link, &netlink.Addr{IPNet: l.addr})
	n.writeServers()
}

// takeMirror records the mirror that a DHCP server names.
func (n *Network) takeMirror(l *lease) {
	if l.mirror == "" || len(n.mirrors) == maxMirrors || slices.Contains(n.mirrors, l.mirror) {
		return
	}
	n.mirrors = append(n.mirrors, l.mirror)
	close(n.heard)
	n.heard = make(chan struct{})
	n.Report("network: DHCP server %s names mirror %s (a hint: what it sends is verified like all else)", l.from, bootargs.Redact(l.mirror))
}
