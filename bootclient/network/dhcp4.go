package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	dhcpTimeout  = time.Second     // for the first answer; doubled for the second
	dhcpTries    = 2               // of the first exchange: 1 and 2 seconds
	dhcpLater    = 4 * time.Second // for the answer of each further exchange
	dhcpPause    = 4 * time.Second // longest pause between two of them
	private6At   = 3               // exchanges before a private mode switches on IPv6
	renewLeast   = 30 * time.Second
	maxRoutes    = 32   // used of one lease
	maxServers4  = 3    // used of one lease
	minMTU4      = 576  // taken from a lease
	minMTU6      = 1280 // of a link with IPv6 (RFC 8200)
	optionMirror = 224
	maxMirror    = 200 // bytes
	maxMirrors   = 4   // of all leases
)

// A lease is a checked answer of a DHCP server, as kernel addresses and routes.
type lease struct {
	addr    *net.IPNet
	routes  []netlink.Route // without metric
	servers []netip.Addr    // DNS
	from    net.IP
	mirror  string // a hint; "" for none

	router           netip.Addr // the first one, may be invalid
	domain, hostname string
	ntp              []netip.Addr
	mtu              int
	until            time.Time     // zero for ever
	renew            time.Duration // after the answer; 0 for never
	answer           *nclient4.Lease
}

// startDHCP4 starts the task that has a lease for a port.
func (n *Network) startDHCP4(p *port) {
	ctx := p.ctx
	go n.runDHCP4(ctx, p)
}

// runDHCP4 asks for a lease until there is one, and renews it, until the link is lost. It asks for
// ever: the answer of a server that starts late, or behind a switch whose spanning tree is not
// ready, comes at most 8 s later.
func (n *Network) runDHCP4(ctx context.Context, p *port) {
	name, index := p.name, p.index // never change
	for failed := 0; ctx.Err() == nil; {
		timeout, tries := dhcpTimeout, dhcpTries
		if failed > 0 {
			timeout, tries = dhcpLater, 1
		}
		l, err := n.requestLease(ctx, name, index, timeout, tries)
		if err == nil {
			failed = 0
			if n.try(ctx, func() bool { return n.leased(p, l) }) {
				n.hold(ctx, p, l)
				continue
			}
			sleep(ctx, dhcpLater+rand.N(dhcpPause))
			continue
		}
		failed++
		n.do(ctx, func() { n.dhcpFailed(p, err, tries, failed) })
		if failed > 1 {
			sleep(ctx, rand.N(dhcpPause))
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

// modifiers returns what every DHCP message contains. In every mode it contains no host name and no
// client identifier: a server needs only the hardware address.
func (n *Network) modifiers() []dhcpv4.Modifier {
	codes := []dhcpv4.OptionCode{dhcpv4.OptionClasslessStaticRoute}
	if !n.Private {
		codes = append(codes, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName, dhcpv4.OptionNTPServers)
	}
	if n.AskMirror {
		codes = append(codes, dhcpv4.GenericOptionCode(optionMirror))
	}
	return []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(codes...)}
}

// requestLease requests a lease for an interface that is up.
func (n *Network) requestLease(ctx context.Context, name string, index int, timeout time.Duration, tries int) (*lease, error) {
	client, err := client4(name, timeout, tries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	got, err := request4(ctx, client, timeout, tries, n.modifiers()...)
	if err != nil {
		return nil, err
	}
	return n.takeAnswer(got, index)
}

// client4 returns a DHCPv4 client for an interface that need not have an address.
func client4(name string, timeout time.Duration, tries int) (*nclient4.Client, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(answers4)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(i, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("DHCP: socket: %w", err)
	}
	answers := nclient4.NewBroadcastUDPConn(conn, &net.UDPAddr{Port: nclient4.ClientPort})
	client, err := nclient4.NewWithConn(answers, i.HardwareAddr, nclient4.WithTimeout(timeout), nclient4.WithRetry(tries))
	if err != nil {
		conn.Close()
	}
	return client, err
}

// answers4 is the filter for IPv4 packets that may be the answer of a DHCP server: UDP to the port of the
// client. Without it the client would get a copy of each packet of a fetch that runs meanwhile.
var answers4 = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0}, // length of the IP header
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: nclient4.ClientPort, SkipFalse: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// request4 requests a lease within exchangeLimit, from the first server whose offer passes the checks of a
// lease: another server may answer sooner with one that does not.
func request4(ctx context.Context, client *nclient4.Client, timeout time.Duration, tries int, m ...dhcpv4.Modifier) (*nclient4.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit(timeout, tries))
	defer cancel()
	size := dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize))
	discover, err := dhcpv4.NewDiscovery(client.InterfaceAddr(), dhcpv4.PrependModifiers(m, size)...)
	if err != nil {
		return nil, err
	}
	var refused error
	offer, err := client.SendAndRead(ctx, client.RemoteAddr(), discover, func(o *dhcpv4.DHCPv4) bool {
		if o.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		_, refused = readLease(o, 0)
		return refused == nil
	})
	if err != nil {
		return nil, cmp.Or(refused, err)
	}
	return client.RequestFromOffer(ctx, offer, m...)
}

// exchangeLimit bounds an exchange of two messages, each with a timeout that doubles with each try. The
// client alone begins to count anew with every message that it passes over, so that a hostile host
// could keep it from asking again for ever.
func exchangeLimit(timeout time.Duration, tries int) time.Duration {
	return 2 * timeout * (1<<tries - 1)
}

func (n *Network) takeAnswer(got *nclient4.Lease, index int) (*lease, error) {
	l, err := readLease(got.ACK, index)
	if err != nil {
		return nil, err
	}
	l.answer = got
	if !n.AskMirror {
		l.mirror = ""
	}
	return l, nil
}

// hold renews a lease until that is no longer possible. The address stays until the lease ends.
func (n *Network) hold(ctx context.Context, p *port, l *lease) {
	for l.renew > 0 {
		sleep(ctx, l.renew)
		if ctx.Err() != nil {
			return
		}
		next, err := n.renewLease(ctx, p.name, p.index, l)
		if err != nil {
			return // and ask anew
		}
		l = next
		n.do(ctx, func() { n.renewed(p, next) })
	}
	<-ctx.Done()
}

func (n *Network) renewLease(ctx context.Context, name string, index int, l *lease) (*lease, error) {
	client, err := client4(name, dhcpLater, 2)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit(dhcpLater, 2))
	defer cancel()
	got, err := client.Renew(ctx, l.answer, n.modifiers()...)
	if err != nil {
		return nil, err
	}
	next, err := n.takeAnswer(got, index)
	if err == nil && next.addr.String() != l.addr.String() {
		err = errors.New("DHCP: the server has changed the address")
	}
	return next, err
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
		if err := n.setIPv6(p, true); err != nil {
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
		if old[i].IPNet.String() != l.addr.String() && !p.hasStatic(old[i].IPNet) {
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
	l := &lease{addr: &net.IPNet{IP: ip, Mask: mask}, from: ack.ServerIdentifier(), mirror: mirrorOf(ack)}
	l.servers = addrs4(ack.DNS())
	l.servers = l.servers[:min(len(l.servers), maxServers4)]
	l.ntp = addrs4(ack.NTPServers())
	if routers := addrs4(ack.Router()); len(routers) > 0 {
		l.router = routers[0]
	}
	l.domain, l.hostname = hostName(ack.DomainName()), hostName(ack.HostName())
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= minMTU4 {
		l.mtu = int(mtu)
	}
	l.setTimes(ack, time.Now())
	l.routes = leaseRoutes(ack, index, l)
	return l, nil
}

// setTimes sets when a lease ends and is renewed. A time that is too short counts as renewLeast.
func (l *lease) setTimes(ack *dhcpv4.DHCPv4, now time.Time) {
	duration := ack.IPAddressLeaseTime(0)
	if duration <= 0 || duration >= forever*time.Second {
		return
	}
	l.until = now.Add(duration)
	l.renew = max(renewLeast, min(ack.IPAddressRenewalTime(duration/2), duration/2))
}

// addrs4 returns the usable addresses of an option.
func addrs4(list []net.IP) (out []netip.Addr) {
	for _, ip := range list {
		a, ok := netip.AddrFromSlice(ip)
		if a = a.Unmap(); ok && a.Is4() && usableServer(a) && len(out) < maxRoutes {
			out = append(out, a)
		}
	}
	return out
}

var hostNames = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?$`)

// hostName returns a name if it is a host or domain name, else "".
func hostName(s string) string {
	if !hostNames.MatchString(s) {
		return ""
	}
	return s
}

// mirrorOf returns the mirror of option 224, "" if it is not an http or https URL.
func mirrorOf(ack *dhcpv4.DHCPv4) string {
	s := string(ack.Options.Get(dhcpv4.GenericOptionCode(optionMirror)))
	if len(s) > maxMirror || !webMirror.MatchString(s) || bootargs.CheckMirror(s) != nil {
		return ""
	}
	return s
}

var webMirror = regexp.MustCompile(`^https?://[!-~]+$`)

// leaseRoutes returns the classless routes or, without any, a route over the first router
// (RFC 3442 requires this order), and routes to the name servers that only the default route reaches:
// the default route may be that of another port.
func leaseRoutes(ack *dhcpv4.DHCPv4, index int, l *lease) []netlink.Route {
	wanted := ack.ClasslessStaticRoute()
	if len(wanted) == 0 && l.router.IsValid() {
		wanted = []*dhcpv4.Route{{Dest: anywhere4, Router: l.router.AsSlice()}}
	}
	var routes []netlink.Route
	for _, w := range wanted[:min(len(wanted), maxRoutes)] {
		gw := w.Router.To4()
		if w.Dest == nil || gw == nil || gw.IsMulticast() || gw.IsLoopback() {
			continue
		}
		// RFC 3442: the client clears the bits of the destination outside its mask.
		to := &net.IPNet{IP: w.Dest.IP.Mask(w.Dest.Mask), Mask: w.Dest.Mask}
		routes = append(routes, routeVia(index, to, gw))
	}
	for _, r := range routes {
		if !isDefault(r) || r.Gw == nil {
			continue
		}
		for _, s := range l.servers {
			other := func(r netlink.Route) bool { return !isDefault(r) && r.Dst.Contains(s.AsSlice()) }
			if !l.addr.Contains(s.AsSlice()) && !slices.ContainsFunc(routes, other) {
				routes = append(routes, routeVia(index, netOf(netip.PrefixFrom(s, 32)), r.Gw))
			}
		}
		break
	}
	return routes
}
