package network

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Times of RFC 3927, section 9.
const (
	probeWait     = time.Second // longest pause before the first probe
	probeCount    = 3
	probeMin      = time.Second // between two probes
	probeMax      = 2 * time.Second
	announceWait  = 2 * time.Second // after the last probe
	announceCount = 2
	announceEvery = 2 * time.Second
	maxConflicts  = 10
	rateLimit     = time.Minute // between two addresses after maxConflicts
)

const arpPause = 4 * time.Second // before a connection for ARP that could not be opened is tried again

// linkLocalCandidate returns the try-th address of 169.254.1.0 to 169.254.254.255 for a MAC address: the same
// ones at each boot, so that a network keeps its addresses.
func linkLocalCandidate(mac net.HardwareAddr, try int) netip.Addr {
	h := fnv.New32a()
	h.Write(mac)
	h.Write([]byte{byte(try), byte(try >> 8)})
	i := 256 + h.Sum32()%(254*256)
	return netip.AddrFrom4([4]byte{169, 254, byte(i >> 8), byte(i)})
}

// startLinkLocal starts the task that has a link-local address for a port.
func (n *Network) startLinkLocal(p *port) {
	n.stopLinkLocal(p)
	ctx, stop := context.WithCancel(p.ctx)
	p.stopLocal, p.claiming = stop, true
	go n.runLinkLocal(ctx, p)
}

// stopLinkLocal ends the task and removes the address.
func (n *Network) stopLinkLocal(p *port) {
	p.stopLocal()
	p.claiming = false
	if p.linkLocal.IsValid() {
		_ = delAddr(p.link, &netlink.Addr{IPNet: linkLocalNet(p.linkLocal)})
		p.linkLocal = netip.Addr{}
	}
}

func linkLocalNet(a netip.Addr) *net.IPNet { return netOf(netip.PrefixFrom(a, 16)) }

// runLinkLocal claims an address and gives it up when another machine has it (RFC 3927).
func (n *Network) runLinkLocal(ctx context.Context, p *port) {
	c := n.openARPAgain(ctx, p)
	for try := 0; ctx.Err() == nil; try++ {
		if try >= maxConflicts {
			sleep(ctx, rateLimit)
		}
		a := linkLocalCandidate(c.mac, try)
		if !c.probe(ctx, a) {
			continue
		}
		n.do(ctx, func() { n.claimed(p, a) })
		if c.defend(ctx, a) {
			n.do(ctx, func() { n.lostLinkLocal(p, a) })
		}
	}
}

// openARPAgain opens a connection, after a pause if that failed. It returns nil if ctx ends before.
func (n *Network) openARPAgain(ctx context.Context, p *port) *arpConn {
	for failed := 0; ctx.Err() == nil; failed++ {
		c, err := openARP(ctx, p.link)
		if err == nil {
			return c
		}
		if failed == 0 {
			n.do(ctx, func() { n.Report("network: %s: link-local address: %v", p.name, err) })
		}
		sleep(ctx, arpPause)
	}
	return nil
}

// probe reports whether no other machine has an address or probes for it.
func (c *arpConn) probe(ctx context.Context, a netip.Addr) bool {
	pause := rand.N(probeWait)
	for sent := 0; ; sent++ {
		if !c.quiet(ctx, a, pause) {
			return false
		}
		if sent == probeCount {
			return true
		}
		if c.request(netip.Addr{}, a) != nil {
			return false
		}
		if pause = probeMin + rand.N(probeMax-probeMin); sent == probeCount-1 {
			pause = announceWait
		}
	}
}

// quiet waits. It returns false at once if another machine has or wants the address, or ctx ends.
func (c *arpConn) quiet(ctx context.Context, a netip.Addr, d time.Duration) bool {
	taken, err := c.await(ctx, time.After(d), func(m arpMessage) bool {
		return m.sender == a || m.sender.IsUnspecified() && m.target == a
	})
	return !taken && err == nil && ctx.Err() == nil
}

// defend announces an address and returns true when another machine uses it too.
func (c *arpConn) defend(ctx context.Context, a netip.Addr) bool {
	announce := time.NewTicker(announceEvery)
	defer announce.Stop()
	for sent := 0; ; sent++ {
		if sent < announceCount {
			_ = c.request(a, a)
		}
		if taken, err := c.await(ctx, announce.C, func(m arpMessage) bool { return m.sender == a }); taken || err != nil {
			return taken
		}
	}
}

// claimed sets a link-local address.
func (n *Network) claimed(p *port, a netip.Addr) {
	addr := &netlink.Addr{IPNet: linkLocalNet(a), Scope: unix.RT_SCOPE_LINK}
	if err := netlink.AddrReplace(p.link, addr); err != nil {
		n.Report("network: %s: link-local address %s: %v", p.name, a, err)
		return
	}
	p.linkLocal = a
	if p.plan.dhcp4 {
		n.found("%s %s/16, link-local: no DHCP server answers", p.name, a)
		return
	}
	n.found("%s %s/16, link-local", p.name, a)
}

// lostLinkLocal removes an address that another machine has.
func (n *Network) lostLinkLocal(p *port, a netip.Addr) {
	n.Report("network: %s: another machine has %s; another address is tried", p.name, a)
	_ = delAddr(p.link, &netlink.Addr{IPNet: linkLocalNet(a)})
	p.linkLocal = netip.Addr{}
}
