package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
)

// A lease6 is a checked answer of a DHCPv6 server.
type lease6 struct {
	addr             netip.Addr // invalid for an answer without an address
	preferred, valid time.Duration
	until            time.Time     // zero for ever
	renew            time.Duration // 0 for never
	servers          []netip.Addr  // DNS
	domain           string
	answer           *dhcpv6.Message
	client           dhcpv6.DUID
}

// errNoAddress6 is the error of an answer without a usable address.
var errNoAddress6 = errors.New("DHCPv6: the server has no address for this machine")

// startDHCP6 starts the task of DHCPv6 when the port can send and phase.ip=dhcp6 or a router asks
// for it. A task that asks only for name servers is replaced when addresses are to be asked for: the
// advertisement of one of several routers, or an early one, may say less.
func (n *Network) startDHCP6(p *port) {
	addresses := p.plan.dhcp6 || p.raFlags&raManaged != 0
	if !p.carrier || !p.ready6 || !p.plan.ra || !addresses && p.raFlags&raOther == 0 {
		return
	}
	if p.asking6 && (p.addresses6 || !addresses) {
		return
	}
	p.stop6()
	ctx, stop := context.WithCancel(p.ctx)
	p.stop6, p.asking6, p.addresses6 = stop, true, addresses
	go n.runDHCP6(ctx, p, addresses)
}

// runDHCP6 asks for an address, or only for name servers, until there is an answer, and renews the
// address.
func (n *Network) runDHCP6(ctx context.Context, p *port, addresses bool) {
	for failed := 0; ctx.Err() == nil; {
		timeout, tries := dhcpTimeout, dhcpTries
		if failed > 0 {
			timeout, tries = dhcpLater, 1
		}
		l, err := exchange6(ctx, p.name, timeout, tries, addresses, nil)
		if err != nil {
			failed++
			n.do(ctx, func() { n.dhcp6Failed(p, err, tries, failed) })
			if failed > 1 {
				sleep(ctx, rand.N(dhcpPause))
			}
			continue
		}
		failed = 0
		n.do(ctx, func() { n.leased6(p, l) })
		n.hold6(ctx, p, l)
	}
}

// hold6 renews a lease until that is no longer possible.
func (n *Network) hold6(ctx context.Context, p *port, l *lease6) {
	for l.renew > 0 {
		sleep(ctx, l.renew)
		if ctx.Err() != nil {
			return
		}
		next, err := exchange6(ctx, p.name, dhcpLater, 2, true, l)
		if err != nil || next.addr != l.addr {
			return // and ask anew
		}
		l = next
		n.do(ctx, func() { n.leased6(p, next) })
	}
	<-ctx.Done()
}

// exchange6 asks for a lease: anew, for name servers only, or to renew old.
func exchange6(ctx context.Context, name string, timeout time.Duration, tries int, addresses bool, old *lease6) (*lease6, error) {
	client, err := nclient6.New(name, nclient6.WithTimeout(timeout), nclient6.WithRetry(tries))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit(timeout, tries))
	defer cancel()
	// DUID-LL needs no clock and no storage. In a private mode the MAC address in it is random.
	var id dhcpv6.DUID = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: client.InterfaceAddr()}
	var answer *dhcpv6.Message
	switch {
	case old != nil:
		answer, err = client.SendAndRead(ctx, client.RemoteAddr(), message6(dhcpv6.MessageTypeRenew, old), nclient6.IsMessageType(dhcpv6.MessageTypeReply))
	case addresses:
		answer, err = request6(ctx, client, id)
	default:
		ask, newErr := dhcpv6.NewMessage(dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
		if newErr != nil {
			return nil, newErr
		}
		ask.MessageType = dhcpv6.MessageTypeInformationRequest
		answer, err = client.SendAndRead(ctx, client.RemoteAddr(), ask, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
		id = nil
	}
	if err != nil {
		return nil, err
	}
	if answer.MessageType != dhcpv6.MessageTypeReply {
		return nil, fmt.Errorf("DHCPv6: the answer is of type %s", answer.MessageType)
	}
	return readLease6(answer, id, addresses)
}

// request6 requests the address of the first server that offers one. A server without an address may
// answer before it (RFC 8415, section 18.2.9).
func request6(ctx context.Context, client *nclient6.Client, id dhcpv6.DUID) (*dhcpv6.Message, error) {
	solicit, err := dhcpv6.NewSolicit(client.InterfaceAddr(), dhcpv6.WithClientID(id))
	if err != nil {
		return nil, err
	}
	var refused error
	offer, err := client.SendAndRead(ctx, client.RemoteAddr(), solicit, func(m *dhcpv6.Message) bool {
		if m.MessageType != dhcpv6.MessageTypeAdvertise {
			return false
		}
		_, refused = readLease6(m, id, true)
		return refused == nil
	})
	if err != nil {
		return nil, cmp.Or(refused, err)
	}
	return client.Request(ctx, offer)
}

// message6 makes a message that renews or gives back a lease.
func message6(kind dhcpv6.MessageType, l *lease6) *dhcpv6.Message {
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(l.client), dhcpv6.WithServerID(l.answer.Options.ServerID()))
	if err != nil {
		return &dhcpv6.Message{MessageType: kind} // no random number: the server refuses it
	}
	m.MessageType = kind
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(l.answer.Options.OneIANA())
	if kind == dhcpv6.MessageTypeRenew {
		m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	}
	return m
}

// readLease6 checks an answer, which any host on the link may have sent. client is nil for an answer
// that names no client.
func readLease6(m *dhcpv6.Message, client dhcpv6.DUID, addresses bool) (*lease6, error) {
	if client != nil {
		if got := m.Options.ClientID(); got == nil || !bytes.Equal(got.ToBytes(), client.ToBytes()) {
			return nil, errors.New("DHCPv6: the answer is for another machine")
		}
	}
	if s := m.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, fmt.Errorf("DHCPv6: the server refuses: %.60q", s.StatusCode)
	}
	l := &lease6{answer: m, client: client}
	for _, ip := range m.Options.DNS() {
		if a, ok := netip.AddrFromSlice(ip.To16()); ok && usableServer(a) && !a.IsLinkLocalUnicast() && len(l.servers) < maxLeaseServers {
			l.servers = append(l.servers, a)
		}
	}
	if d := m.Options.DomainSearchList(); d != nil && len(d.Labels) > 0 {
		l.domain = hostName(d.Labels[0])
	}
	if !addresses {
		return l, nil
	}
	ia := m.Options.OneIANA()
	if ia == nil || m.Options.ServerID() == nil {
		return nil, errNoAddress6
	}
	for _, o := range ia.Options.Addresses() {
		a, ok := netip.AddrFromSlice(o.IPv6Addr.To16())
		if ok && !a.Is4In6() && a.IsGlobalUnicast() && o.ValidLifetime > 0 && o.PreferredLifetime <= o.ValidLifetime {
			l.addr, l.preferred, l.valid = a, o.PreferredLifetime, o.ValidLifetime
			break
		}
	}
	if !l.addr.IsValid() {
		return nil, errNoAddress6
	}
	if l.valid < forever*time.Second {
		l.until = time.Now().Add(l.valid)
		renew := ia.T1
		if renew <= 0 {
			renew = l.preferred / 2
		}
		l.renew = max(renewLeast, min(renew, l.valid/2))
	}
	return l, nil
}

func (n *Network) dhcp6Failed(p *port, err error, tries, failed int) {
	p.requests6 += tries
	if !errors.Is(err, nclient6.ErrNoResponse) && !errors.Is(err, context.DeadlineExceeded) && failed <= 1 {
		n.Report("network: %s: %v", p.name, err)
	}
	if l := p.lease6; l != nil && !l.until.IsZero() && time.Now().After(l.until) {
		p.lease6 = nil // the kernel has removed the address
		n.writeServers()
	}
}

// leased6 applies an answer. The address is found when it is unique.
func (n *Network) leased6(p *port, l *lease6) {
	renewed := p.lease6 != nil && p.lease6.addr == l.addr
	p.lease6 = l
	if l.addr.IsValid() {
		addr := &netlink.Addr{IPNet: netOf(netip.PrefixFrom(l.addr, 128))}
		if l.valid < forever*time.Second {
			addr.ValidLft, addr.PreferedLft = int(l.valid/time.Second), int(l.preferred/time.Second)
		}
		if err := netlink.AddrReplace(p.link, addr); err != nil {
			n.Report("network: %s: address %s: %v", p.name, l.addr, err)
		}
	}
	n.writeServers()
	if len(l.servers) > 0 && !renewed {
		n.Report("network: %s: name server %s from a DHCPv6 server", p.name, l.servers[0])
	}
}

// releaseV6 gives back a DHCPv6 lease without waiting for the answer.
func releaseV6(name string, l *lease6) error {
	conn, err := nclient6.NewIPv6UDPConn(name, dhcpv6.DefaultClientPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	to := *nclient6.AllDHCPRelayAgentsAndServers
	to.Zone = name
	_, err = conn.WriteTo(message6(dhcpv6.MessageTypeRelease, l).ToBytes(), &to)
	return err
}
