package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// userOption is RTM_NEWNDUSEROPT of interface 3 with an option.
func userOption(option []byte) syscall.NetlinkMessage {
	data := make([]byte, 16, 16+len(option))
	data[0] = unix.AF_INET6
	binary.NativeEndian.PutUint16(data[2:], uint16(len(option)))
	binary.NativeEndian.PutUint32(data[4:], 3)
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNDUSEROPT}, Data: append(data, option...)}
}

func rdnssOption(lifetime uint32, servers ...string) []byte {
	o := binary.BigEndian.AppendUint32([]byte{optionRDNSS, byte(1 + 2*len(servers)), 0, 0}, lifetime)
	for _, s := range servers {
		o = append(o, netip.MustParseAddr(s).AsSlice()...)
	}
	return o
}

func TestNameServersOfARouterAreRead(t *testing.T) {
	for name, tt := range map[string]struct {
		option   []byte
		servers  []string
		lifetime time.Duration
	}{
		"two":              {rdnssOption(600, "2001:db8::1", "fe80::1"), []string{"2001:db8::1", "fe80::1"}, 10 * time.Minute},
		"for ever":         {rdnssOption(forever, "2001:db8::1"), []string{"2001:db8::1"}, 365 * 24 * time.Hour},
		"withdrawn":        {rdnssOption(0, "2001:db8::1"), []string{"2001:db8::1"}, 0},
		"multicast":        {rdnssOption(600, "ff02::1", "::", "::ffff:192.0.2.1"), nil, 0},
		"none":             {rdnssOption(600), nil, 0},
		"short":            {rdnssOption(600, "2001:db8::1")[:20], nil, 0},
		"another option":   append2([]byte{31}, rdnssOption(600, "2001:db8::1")[1:]),
		"a length of zero": append2([]byte{optionRDNSS, 0}, rdnssOption(600, "2001:db8::1")[2:]),
	} {
		got, ok := parseRouterMessage(userOption(tt.option))
		var servers []string
		for _, a := range got.servers {
			servers = append(servers, a.String())
		}
		if ok != (len(tt.servers) > 0) || ok && (!slices.Equal(servers, tt.servers) || got.lifetime != tt.lifetime || got.index != 3) {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
}

// said is what a router says of name servers, as the kernel passes it on.
func said(router string, option []byte) routerMessage {
	m := userOption(option)
	m.Data = append(append(m.Data, 20, 0, routerAttr, 0), netip.MustParseAddr(router).AsSlice()...)
	r, _ := parseRouterMessage(m)
	return r
}

func TestARouterThatNamesManyServersShutsOutNoOther(t *testing.T) {
	var reports []string
	n := &Network{Config: Config{Report: func(format string, args ...any) { reports = append(reports, fmt.Sprintf(format, args...)) }}}
	p := newPort(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "none"}})
	now := time.Now()
	many := make([]string, maxRDNSS)
	for i := range many {
		many[i] = fmt.Sprintf("2001:db8::%x", i+1)
	}
	for i := range maxRouters - 1 {
		n.routerServers(p, said(fmt.Sprintf("fe80::bad:%x", i), rdnssOption(forever, many...)), now)
	}
	own := netip.MustParseAddr("2001:db8:1::53")
	n.routerServers(p, said("fe80::1", rdnssOption(600, own.String())), now)
	if got := p.rdnssServers(now); !slices.Contains(got[:2], own) {
		t.Errorf("servers in use: %v", got)
	}
	for i := range 20 { // the routers of a hostile host come and go, the own one repeats itself
		n.routerServers(p, said(fmt.Sprintf("fe80::bad:%x", 100+i), rdnssOption(forever, many...)), now.Add(time.Duration(i)*time.Minute))
		n.routerServers(p, said("fe80::1", rdnssOption(600, own.String())), now.Add(time.Duration(i)*time.Minute))
	}
	now = now.Add(20 * time.Minute)
	if got := p.rdnssServers(now.Add(-time.Minute)); !slices.Contains(got[:2], own) || len(p.rdnss) != maxRouters {
		t.Errorf("servers in use: %v, of %d routers", got, len(p.rdnss))
	}
	before := len(reports)
	for range 10 { // withdrawn and named again and again
		n.routerServers(p, said("fe80::2", rdnssOption(0, own.String())), now)
		n.routerServers(p, said("fe80::2", rdnssOption(600, own.String())), now)
	}
	if len(reports) != before || before != maxRDNSS+1 {
		t.Errorf("%d lines, then %d: %q", before, len(reports), reports)
	}
}

func append2(a, b []byte) (tt struct {
	option   []byte
	servers  []string
	lifetime time.Duration
},
) {
	tt.option = append(a, b...)
	return tt
}

func FuzzRouterMessage(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWNDUSEROPT), userOption(rdnssOption(600, "2001:db8::1", "fe80::1")).Data)
	f.Add(uint16(unix.RTM_NEWLINK), append(append([]byte{unix.AF_INET6, 0, 0, 0, 3, 0, 0, 0}, make([]byte, 8)...), 16, 0, unix.IFLA_PROTINFO, 0, 8, 0, unix.IFLA_INET6_FLAGS, 0, raManaged, 0, 0, 0))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m, ok := parseRouterMessage(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data})
		if ok && (len(m.servers) > maxRDNSS || !m.hasFlags && len(m.servers) == 0) {
			t.Errorf("%+v", m)
		}
	})
}

func FuzzARP(f *testing.F) {
	a := netip.MustParseAddr("169.254.1.2")
	m := arpMessage{op: arpRequest, senderMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, sender: a, target: a.Next()}
	f.Add(append(m.bytes(), make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := parseARP(data)
		if !ok {
			return
		}
		again, ok := parseARP(m.bytes())
		if !ok || again.sender != m.sender || again.target != m.target || again.op != m.op || again.senderMAC.String() != m.senderMAC.String() {
			t.Errorf("%+v, %+v", m, again)
		}
	})
}

func TestLinkLocalCandidatesAreInTheRange(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for try := range 1000 {
		a := linkLocalCandidate(net.HardwareAddr{2, 0, 0, 0, 0, 1}, try)
		if b := a.As4(); b[0] != 169 || b[1] != 254 || b[2] == 0 || b[2] == 255 {
			t.Fatal(a)
		}
		seen[a] = true
	}
	if len(seen) < 900 {
		t.Errorf("only %d of 1000 are different", len(seen))
	}
}

// reply6 is a correct answer of a DHCPv6 server.
func reply6(change func(*dhcpv6.Message, *dhcpv6.OptIAAddress)) (*dhcpv6.Message, dhcpv6.DUID) {
	id := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}
	a := &dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("2001:db8::5"), PreferredLifetime: time.Hour, ValidLifetime: 2 * time.Hour}
	dhcpv6.WithClientID(id)(m)
	dhcpv6.WithServerID(id)(m)
	dhcpv6.WithDNS(net.ParseIP("2001:db8::53"), net.ParseIP("ff02::1"))(m)
	change(m, a)
	dhcpv6.WithIANA(*a)(m)
	return m, id
}

func TestAnAnswerOfDHCPv6IsChecked(t *testing.T) {
	m, id := reply6(func(*dhcpv6.Message, *dhcpv6.OptIAAddress) {})
	l, err := readLease6(m, id, true)
	if err != nil || l.addr.String() != "2001:db8::5" || len(l.servers) != 1 || l.renew != 30*time.Minute {
		t.Fatalf("%+v, %v", l, err)
	}
	other := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	for name, change := range map[string]func(*dhcpv6.Message, *dhcpv6.OptIAAddress){
		"multicast":        func(_ *dhcpv6.Message, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.ParseIP("ff02::1") },
		"IPv4":             func(_ *dhcpv6.Message, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.IPv4(192, 0, 2, 1) },
		"link-local":       func(_ *dhcpv6.Message, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.ParseIP("fe80::5") },
		"no lifetime":      func(_ *dhcpv6.Message, a *dhcpv6.OptIAAddress) { a.ValidLifetime = 0 },
		"preferred longer": func(_ *dhcpv6.Message, a *dhcpv6.OptIAAddress) { a.PreferredLifetime = 3 * time.Hour },
		"another machine":  func(m *dhcpv6.Message, _ *dhcpv6.OptIAAddress) { dhcpv6.WithClientID(other)(m) },
		"no server": func(m *dhcpv6.Message, _ *dhcpv6.OptIAAddress) {
			m.Options.Options.Del(dhcpv6.OptionServerID)
		},
		"refused": func(m *dhcpv6.Message, _ *dhcpv6.OptIAAddress) {
			m.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
		},
	} {
		m, id := reply6(change)
		if l, err := readLease6(m, id, true); err == nil {
			t.Errorf("%s: accepted: %+v", name, l)
		}
	}
}

func FuzzLease6(f *testing.F) {
	m, id := reply6(func(*dhcpv6.Message, *dhcpv6.OptIAAddress) {})
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := dhcpv6.MessageFromBytes(data)
		if err != nil {
			return
		}
		l, err := readLease6(m, id, true)
		if err == nil && (!l.addr.Is6() || !netip.Addr.IsGlobalUnicast(l.addr) || len(l.servers) > maxLeaseServers) {
			t.Errorf("%+v", l)
		}
	})
}
