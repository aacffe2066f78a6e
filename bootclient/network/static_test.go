package network

import (
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestStaticAddressesNeedNoServer(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	n := start(t, "phase.ip=10.77.1.9::10.77.1.1:255.255.255.0::"+port+":none:10.77.1.53 phase.ip=[fd77::9]::[fd77::1]:64::02-00-00-00-01-01", func(c *Config) {
		c.Deadline, c.NICTimeout = time.Minute, 1 // a card that is there is not reported as missing, however short the wait
	})
	n.wait()
	n.route("192.0.2.1", "10.77.1.1", port)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // IPv6 addresses are used after duplicate address detection
		i := n.state(port)
		if len(i.Addresses) == 2 && i.Addresses[0].From == "static" && i.Addresses[1].From == "static" && len(i.Routes) == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", i)
		}
	}
	n.route("2001:db8::1", "fd77::1", port)
	if got := n.resolvConf(); !strings.HasPrefix(got, "nameserver 10.77.1.53\n") {
		t.Errorf("resolv.conf %q", got)
	}
}

// One cable of two is dead, and the address names no port.
func TestAStaticAddressGoesToThePortWithALink(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	one, two := l.Cable(1), l.Cable(2)
	l.Plug(2)
	n := start(t, "phase.ip=10.77.9.9::10.77.9.1:24", nil)
	if summary := n.wait(); summary != two+" 10.77.9.9/24 from the command line" {
		t.Fatalf("%q", summary)
	}
	l.Plug(1)
	l.Unplug(2)
	n.console(one + " 10.77.9.9/24 from the command line")
	n.route("192.0.2.1", "10.77.9.1", one)
	if i := n.state(two); len(i.Addresses) > 0 {
		t.Errorf("%+v", i.Addresses)
	}
}
