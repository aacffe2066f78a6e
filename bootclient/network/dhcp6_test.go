package network

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

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

func TestARouterThatSaysSoIsFollowedToDHCPv6(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	log, _ := l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,1h", "--dhcp-option=option6:dns-server,[fd77::53]", "--dhcp-option=option6:domain-search,lan.example")
	n := start(t, "phase.ip=auto6", nil) // no IPv4: a slow host would have a link-local address beside
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::1") || !strings.HasSuffix(summary, "/128 from a DHCPv6 server") {
		t.Fatalf("%q", summary)
	}
	if got := n.resolvConf(); !strings.Contains(got, "nameserver fd77::53\n") {
		t.Errorf("resolv.conf %q", got)
	}
	i := n.state(port)
	if i.Lease6 == nil || i.Lease6.Domain != "lan.example" || !slices.ContainsFunc(i.Addresses, func(a Address) bool { return a.From == "dhcp6" && a.Prefix == i.Lease6.Address }) {
		t.Errorf("%+v, lease %+v", i, i.Lease6)
	}
	if summary, err := n.Leave(); err != nil || summary != "1 lease given back" {
		t.Errorf("%q, %v", summary, err)
	}
	waitForText(t, log, "DHCPRELEASE")
}

func TestARouterWithoutAddressesOfDHCPv6GivesItsNameServers(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	_, end := l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-stateless", "--dhcp-option=option6:dns-server,[fd77::53]")
	n := start(t, "phase.ip=auto6", nil)
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") || !strings.HasSuffix(summary, "router advertisements") {
		t.Fatalf("%q", summary)
	}
	n.console("name server fd77::53 from a DHCPv6 server")
	end() // later the router says that DHCPv6 has addresses too
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,1h")
	n.console("network: "+port+" fd77::1", "/128 from a DHCPv6 server")
}

func TestDHCPv6OfTheCommandLineTakesNoOtherAddress(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,slaac,64,1h", range1)
	n := start(t, "phase.ip="+port+":dhcp6", nil)
	if summary := n.wait(); !strings.HasSuffix(summary, "from a DHCPv6 server") {
		t.Fatalf("%q", summary)
	}
	if i := n.state(port); len(i.Addresses) != 1 || i.Lease4 != nil || !i.NoSLAAC {
		t.Errorf("%+v", i)
	}
}
