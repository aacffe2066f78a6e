package network

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestALinkThatAppearsLaterIsConfigured(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Dnsmasq(range1)
	links := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(links, t.Context().Done()); err != nil {
		t.Fatal(err)
	}
	n := start(t, "", nil)
	for u := range links {
		if u.Attrs().Name == port && u.Attrs().Flags&net.FlagUp != 0 { // the network has set the interface up
			l.Plug(1)
			break
		}
	}
	n.wait()
}

func TestACablePluggedInAfterTheWaitIsConfigured(t *testing.T) {
	l, _ := plugged(t)
	if l == nil {
		return
	}
	late := l.Cable(2)
	l.Dnsmasq(range1, range2)
	n := start(t, "", nil)
	if summary := n.wait(); strings.Contains(summary, late) {
		t.Fatalf("%q", summary)
	}
	l.Plug(2)
	n.console("network: " + late + " 10.77.2.")
}

func TestALinkThatComesBackIsConfiguredAnew(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	_, end := l.Dnsmasq(range1, "--dhcp-option=option:router,10.77.1.1")
	n := start(t, "", nil)
	n.wait()
	l.Unplug(1)
	n.console(port + ": the link is lost")
	end() // the cable is put into another network
	l.Run("ip", "addr", "add", "10.77.9.1/24", "dev", "srv1")
	l.Run("ip", "addr", "del", "10.77.1.1/24", "dev", "srv1")
	l.Dnsmasq("--dhcp-range=10.77.9.50,10.77.9.60,255.255.255.0", "--dhcp-option=option:router,10.77.9.1")
	l.Plug(1)
	n.console(port + ": the link is back")
	n.console("network: " + port + " 10.77.9.")
	n.route("192.0.2.1", "10.77.9.1", port)
	if i := n.state(port); len(i.Addresses) != 1 {
		t.Errorf("addresses %+v", i.Addresses)
	}
}
