package network

import (
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestPortsThatAreDownGetRandomAddresses(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	down, up := l.Cable(1), l.Cable(2)
	link, err := netlink.LinkByName(up)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := RandomizePorts(); n != 1 || err == nil || err.Error() != up+" is up" {
		t.Errorf("%d ports, %v", n, err)
	}
	for name, factory := range map[string]string{down: "02:00:00:00:01:01", up: "02:00:00:00:01:02"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		mac := link.Attrs().HardwareAddr
		if changed := mac.String() != factory; changed != (name == down) || mac[0]&3 != 2 {
			t.Errorf("%s has %s", name, mac)
		}
	}
}

func TestPrivateModeSendsARandomAddressAndNoName(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	log, _ := l.Dnsmasq(range1, "--dhcp-option=224,http://10.77.1.1:8080")
	before := received6(t, l, "srv1", "Ip6InReceives")
	n := start(t, "", func(c *Config) { c.Private = true })
	n.wait()
	link, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	mac := link.Attrs().HardwareAddr
	if mac[0]&3 != 2 || mac.String() == "02:00:00:00:01:01" {
		t.Errorf("hardware address %s", mac)
	}
	if i := n.state(port); i.MAC != mac.String() || i.PermanentMAC != "02:00:00:00:01:01" {
		t.Errorf("%+v", i)
	}
	if summary, err := n.Leave(); err != nil || summary != "1 lease given back" {
		t.Errorf("%q, %v", summary, err)
	}
	seen := waitForText(t, log, "DHCPRELEASE")
	if !strings.Contains(seen, mac.String()) {
		t.Errorf("the server saw %s", seen)
	}
	for _, leak := range []string{"02:00:00:00:01:01", "client provides name", "vendor class", "224", "mtu"} {
		if strings.Contains(seen, leak) {
			t.Errorf("%q was sent:\n%s", leak, seen)
		}
	}
	if got := received6(t, l, "srv1", "Ip6InReceives"); got != before {
		t.Errorf("%s IPv6 packets were sent, %s before", got, before)
	}
	if addrs, err := netlink.AddrList(link, netlink.FAMILY_V4); err != nil || len(addrs) > 0 {
		t.Errorf("addresses %v, %v after the lease was given back", addrs, err)
	}
	if m, _ := n.Mirrors(); len(m) > 0 {
		t.Errorf("mirrors %q", m)
	}
}

func TestPrivateModeUsesIPv6WhenDHCPGetsNoAnswer(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-only", "--ra-param=srv1,4,600")
	n := start(t, "", func(c *Config) { c.Private, c.Deadline = true, time.Minute })
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") {
		t.Errorf("%q", summary)
	}
}
