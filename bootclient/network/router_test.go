package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

func TestAnIPv6NetworkHasAddressesAndNameServers(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-only", "--dhcp-option=option6:dns-server,[fd77::53]")
	n := start(t, "phase.ip=auto6", nil) // no IPv4: a slow host would have a link-local address beside
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") || !strings.HasSuffix(summary, "/64 from IPv6 router advertisements") {
		t.Fatalf("%q", summary)
	}
	n.console("name server fd77::53 from IPv6 router advertisements")
	if got := n.resolvConf(); !strings.Contains(got, "nameserver fd77::53\n") {
		t.Errorf("resolv.conf %q", got)
	}
	check := func(asks4 bool) {
		t.Helper()
		if i := n.state(port); len(i.Addresses) != 1 || i.Addresses[0].From != "ra" || !slices.ContainsFunc(i.Routes, func(r Route) bool { return r.To.Bits() == 0 && r.Via.Is6() }) || i.Asks4 != asks4 {
			t.Errorf("%+v", i)
		}
	}
	check(false)
	// The kernel keeps the address for the next attempt, and not the name servers.
	n.stop()
	before := received6(t, l, "srv1", "Icmp6InRouterSolicits")
	n = start(t, "", nil)
	n.wait()
	n.console("name server fd77::53 from IPv6 router advertisements")
	if got := received6(t, l, "srv1", "Icmp6InRouterSolicits"); got == before {
		t.Error("the second attempt has asked no router")
	}
	check(true)
}
