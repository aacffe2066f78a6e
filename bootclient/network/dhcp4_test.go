package network

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// Linux removes IPv6 from an interface with an MTU below 1280.
func TestASmallMTUOfALeaseLeavesIPv6AndEndsWithTheAttempt(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	_, end := l.Dnsmasq(range1, "--dhcp-option=option:mtu,600")
	n := start(t, "", nil)
	n.wait()
	if i := n.state(port); i.MTU != minMTU6 || i.Lease4 == nil || i.Lease4.MTU != 600 {
		t.Errorf("%+v, lease %+v", i, i.Lease4)
	}
	n.stop()
	n = start(t, "phase.ip=dhcp", nil) // without IPv6
	n.wait()
	if i := n.state(port); i.MTU != 600 {
		t.Errorf("without IPv6: MTU %d", i.MTU)
	}
	n.stop()
	end()
	l.Dnsmasq(range1)
	n = start(t, "", nil)
	n.wait()
	if i := n.state(port); i.MTU != ethernetMTU {
		t.Errorf("next attempt: MTU %d", i.MTU)
	}
}

// A server that answers sooner than that of the site, with an address that no host can have.
func TestAnUnusableOfferDoesNotHideAGoodOne(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	offers := make(chan struct{}, 64)
	offer := func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
			dhcpv4.WithServerIP(net.IPv4(10, 77, 1, 2)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 1, 2))))
		if err != nil || m.MessageType() != dhcpv4.MessageTypeDiscover {
			return
		}
		if _, err := conn.WriteTo(answer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}); err == nil {
			offers <- struct{}{}
		}
	}
	var rogue *server4.Server
	l.Do(func() {
		conn, err := nclient4.NewRawUDPConn("srv1", dhcpv4.ServerPort) // dnsmasq has the port
		if err == nil {
			rogue, err = server4.NewServer("", nil, offer, server4.WithConn(conn))
		}
		if err != nil {
			t.Error(err)
		}
	})
	if rogue == nil {
		t.FailNow()
	}
	go func() { _ = rogue.Serve() }()
	t.Cleanup(func() { rogue.Close() })

	n := start(t, "phase.ip=dhcp", func(c *Config) { c.Deadline = time.Minute })
	n.console(port + ": DHCP: address \"127.0.0.1\" is not usable for a host")
	<-offers
	l.Dnsmasq(range1)
	if summary := n.wait(); !strings.HasPrefix(summary, port+" 10.77.1.") || !strings.HasSuffix(summary, "from DHCP server 10.77.1.1") {
		t.Errorf("%q", summary)
	}
}

// The lease of the test ends never, so nothing else would ask again.
func TestALeaseWhoseAddressIsRefusedIsAskedForAgain(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	n := start(t, "phase.ip=dhcp", func(c *Config) { c.Deadline = time.Second })
	if _, err := n.Wait(); err == nil {
		t.Fatal("an address without a server")
	}
	var own netlink.Link
	n.ask(func() {
		for _, p := range n.ports { // the kernel refuses an address of an interface that does not exist
			own, p.link = p.link, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 9999, Name: "gone"}}
		}
	})
	l.Dnsmasq("--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0,infinite")
	n.console("network: " + port + ": address")
	n.ask(func() {
		for _, p := range n.ports {
			p.link = own
		}
	})
	n.console("network: " + port + " 10.77.1.")
}

func TestDHCPGivesAddressRoutesAndServers(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Dnsmasq(range1, "--dhcp-option=option:router,10.77.1.1", "--dhcp-option=option:dns-server,10.77.1.1,192.0.2.53", "--dhcp-option=option:domain-name,lan.example", "--dhcp-option=option:mtu,1400")
	n := start(t, "", nil)
	summary := n.wait()
	if !strings.HasPrefix(summary, port+" 10.77.1.") || !strings.HasSuffix(summary, "/24 from DHCP server 10.77.1.1") {
		t.Errorf("summary %q", summary)
	}
	if got := n.resolvConf(); !strings.HasPrefix(got, "nameserver 10.77.1.1\nnameserver 192.0.2.53\noptions ") {
		t.Errorf("resolv.conf %q", got)
	}
	n.route("192.0.2.1", "10.77.1.1", port)
	i := n.state(port)
	if i.Lease4 == nil || i.Lease4.Domain != "lan.example" || i.Lease4.Server != "10.77.1.1" || time.Until(i.Lease4.Until) < 50*time.Minute || i.MTU != 1400 || i.Kind != "ethernet" || i.Driver != "veth" || !i.Link {
		t.Errorf("state %+v, lease %+v", i, i.Lease4)
	}
	if len(i.Addresses) != 1 || i.Addresses[0].From != "dhcp4" || i.Addresses[0].Prefix != i.Lease4.Address {
		t.Errorf("addresses %+v", i.Addresses)
	}
	if !slices.ContainsFunc(i.Routes, func(r Route) bool { return r.To.Bits() == 0 && r.Via.String() == "10.77.1.1" }) {
		t.Errorf("routes %+v", i.Routes)
	}
}

func TestClasslessRoutesReplaceTheRouter(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Dnsmasq(range1, "--dhcp-option=option:router,10.77.1.9", "--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.1.2,0.0.0.0/0,10.77.1.3")
	n := start(t, "", nil)
	n.wait()
	n.route("198.51.100.7", "10.77.1.2", port)
	n.route("192.0.2.1", "10.77.1.3", port)
}

// One gateway is the machine itself, which the kernel refuses.
func TestARouteThatTheKernelRefusesIsLeftOut(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Dnsmasq("--dhcp-range=10.77.1.50,10.77.1.50,255.255.255.0,1h", "--dhcp-option=option:dns-server,10.77.1.53", "--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.1.50,0.0.0.0/0,10.77.1.3")
	n := start(t, "", nil)
	n.wait()
	n.console(port+": route to 198.51.100.0/24", "invalid argument")
	n.route("192.0.2.1", "10.77.1.3", port)
	if got := n.resolvConf(); !strings.HasPrefix(got, "nameserver 10.77.1.53\n") {
		t.Errorf("resolv.conf %q", got)
	}
}

// The server of a site starts after its machines.
func TestADHCPServerThatStartsLateIsFound(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	n := start(t, "phase.ip=dhcp", func(c *Config) { c.Deadline = 4 * time.Second })
	_, err := n.Wait()
	if err == nil || !strings.Contains(err.Error(), port+": no answer from a DHCP server (2 requests)") || errors.Is(err, ErrNoLink) {
		t.Fatalf("%v", err)
	}
	l.Dnsmasq(range1)
	n.console("network: " + port + " 10.77.1.")
}

// Only a mode that allows it asks for the option.
func TestAMirrorFromDHCPIsAHint(t *testing.T) {
	l, _ := plugged(t)
	if l == nil {
		return
	}
	l.Dnsmasq(range1, "--dhcp-option=224,http://10.77.1.1:8080")
	n := start(t, "", func(c *Config) { c.AskMirror = true })
	_, more := n.Mirrors()
	n.wait()
	<-more
	if m, _ := n.Mirrors(); !slices.Equal(m, []string{"http://10.77.1.1:8080"}) {
		t.Errorf("mirrors %q", m)
	}
	n.console("DHCP server 10.77.1.1 names mirror http://10.77.1.1:8080", "hint")
	n.stop()
	n = start(t, "", nil)
	n.wait()
	if m, _ := n.Mirrors(); len(m) > 0 {
		t.Errorf("mirrors %q without being asked for", m)
	}
}
