package network

import (
	"testing"

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
