package network

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestAGatewayThatDoesNotAnswerIsTheLastChoice(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	one, two := l.Cable(1), l.Cable(2)
	l.Plug(1)
	l.Plug(2)
	l.Dnsmasq(range1, range2, "--dhcp-option=tag:srv1,option:router,10.77.1.99", "--dhcp-option=tag:srv2,option:router,10.77.2.1")
	n := start(t, "", nil)
	n.wait()
	n.console("network: " + one + ": gateway 10.77.1.99 does not answer")
	n.route("192.0.2.1", "10.77.2.1", two)
}

// The gateway of port one answers, and leads nowhere.
func TestTheDefaultRouteIsOnThePortThatReachesASource(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	one, two := l.Cable(1), l.Cable(2)
	l.Plug(1)
	l.Plug(2)
	listener := sourceOnlyOn(t, l, "192.0.2.80", "srv2")
	l.Dnsmasq(range1, range2, "--dhcp-option=tag:srv1,option:router,10.77.1.1", "--dhcp-option=tag:srv2,option:router,10.77.2.1",
		"--dhcp-option=tag:srv1,option:dns-server,10.77.1.1", "--dhcp-option=tag:srv2,option:dns-server,10.77.2.1")
	n := start(t, "", func(c *Config) { c.Sources = []string{"192.0.2.80:" + listener} })
	n.wait()
	n.console("network: " + two + " reaches 192.0.2.80:" + listener)
	n.route("192.0.2.80", "10.77.2.1", two)
	if i := n.state(one); len(i.Addresses) != 1 {
		t.Errorf("%+v", i)
	}
	conn, err := net.DialTimeout("tcp", "192.0.2.80:"+listener, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if list := n.resolvConf(); !strings.HasPrefix(list, "nameserver 10.77.2.1\nnameserver 10.77.1.1\n") {
		t.Errorf("resolv.conf %q", list)
	}
	l.Unplug(2)
	n.console(two + ": the link is lost")
	n.route("192.0.2.80", "10.77.1.1", one)
}

// sourceOnlyOn gives the LAN an address with a TCP server that only packets from one of its
// interfaces reach.
func sourceOnlyOn(t *testing.T, l *netns.LAN, addr, name string) (port string) {
	t.Helper()
	l.Run("ip", "addr", "add", addr+"/32", "dev", "lo")
	l.Do(func() {
		c := net.ListenConfig{Control: bindTo(name)}
		listener, err := c.Listen(t.Context(), "tcp", addr+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		_, port, _ = net.SplitHostPort(listener.Addr().String())
	})
	return port
}
