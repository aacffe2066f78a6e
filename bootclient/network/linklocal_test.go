package network

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/netns"
)

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

// Two machines on one cable: both ports are of this machine.
func TestTwoPortsOnOneCableGetLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "left"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "right"}); err != nil {
		t.Fatal(err)
	}
	n := start(t, "", nil)
	if summary := n.wait(); !strings.Contains(summary, "/16, link-local: no DHCP server answers") {
		t.Fatalf("%q", summary)
	}
	seen := map[netip.Addr]bool{}
	for _, name := range []string{"left", "right"} {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			i := n.state(name)
			if len(i.Addresses) == 1 && i.Addresses[0].From == "link-local" {
				seen[i.Addresses[0].Prefix.Addr()] = true
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", name, i.Addresses)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("addresses %v", seen)
	}
}

func TestALinkLocalAddressOfAnotherMachineIsNotTaken(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	mac := net.HardwareAddr{2, 0, 0, 0, 1, 1}
	l.Run("ip", "addr", "add", linkLocalCandidate(mac, 0).String()+"/16", "dev", "srv1")
	l.Plug(1)
	n := start(t, "phase.ip="+port+":link-local", nil)
	second := linkLocalCandidate(mac, 1).String()
	if summary := n.wait(); summary != port+" "+second+"/16, link-local" {
		t.Fatalf("%q, want %s", summary, second)
	}
	// Later another machine takes it all the same.
	l.Run("ip", "addr", "add", second+"/16", "dev", "srv1")
	l.Do(func() {
		link, err := netlink.LinkByName("srv1")
		if err != nil {
			t.Fatal(err)
		}
		c, err := openARP(t.Context(), link)
		if err != nil || c.request(netip.MustParseAddr(second), netip.MustParseAddr(second)) != nil {
			t.Fatal(err)
		}
	})
	n.console("another machine has " + second)
}

// The interface of the test appears only after the first try.
func TestALinkLocalAddressIsTriedAgain(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "late", 77
	late := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}
	n := start(t, "phase.interface=none", nil)
	n.ask(func() {
		p := newPort(late)
		p.ctx = n.ctx
		n.startLinkLocal(p)
	})
	n.console("network: late: link-local address: ")
	if err := netlink.LinkAdd(late); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"late", "peer"} {
		if link, err := netlink.LinkByName(name); err != nil || netlink.LinkSetUp(link) != nil {
			t.Fatal(name, err)
		}
	}
	n.console("network: late 169.254.", "/16, link-local")
}

func TestALeaseReplacesTheLinkLocalAddress(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	n := start(t, "", nil)
	if summary := n.wait(); !strings.Contains(summary, "169.254.") {
		t.Fatalf("%q", summary)
	}
	l.Dnsmasq(range1)
	n.console("network: " + port + " 10.77.1.")
	if i := n.state(port); len(i.Addresses) != 1 || i.Addresses[0].From != "dhcp4" {
		t.Errorf("%+v", i.Addresses)
	}
}
