package network

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestTheFirstLeaseEndsTheWaitForOtherInterfaces(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1) // without a link: the other end stays down
	l.Cable(2) // with a link, without a DHCP server
	l.Plug(2)
	port := l.Cable(3)
	l.Plug(3)
	l.Dnsmasq("--interface=srv3", "--bind-interfaces", "--except-interface=lo", "--dhcp-range=10.77.3.50,10.77.3.60,255.255.255.0")
	begin := time.Now()
	if summary := start(t, "", nil).wait(); !strings.HasPrefix(summary, port+" 10.77.3.") {
		t.Errorf("%q", summary)
	}
	if took := time.Since(begin); took > firstAddress/2 {
		t.Errorf("took %v", took)
	}
}

// A boot that can go on without a network waits 4 s for a link and 6 s for an address. A network that is
// there is not given up.
func TestABootThatIsInAHurryWaitsLess(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	n := start(t, "", nil)
	n.Hurry()
	began := time.Now()
	_, err := n.Wait()
	if took := time.Since(began); !errors.Is(err, ErrNoLink) || !strings.Contains(err.Error(), "no address after 4s: "+port+": no link") || took >= hurryAddress {
		t.Fatalf("without a link: after %v: %v", took, err)
	}
	l.Plug(1)
	l.Dnsmasq(range1)
	n.console("network: " + port + " 10.77.1.")
	n.stop()

	n = start(t, "phase.ip=dhcp", nil)
	n.Hurry()
	if summary := n.wait(); !strings.Contains(summary, port+" 10.77.1.") {
		t.Errorf("with an address: %q", summary)
	}
	n.stop()
}

func TestABootThatIsInAHurryWaitsForASilentNetwork(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	n := start(t, "phase.ip=dhcp", nil)
	n.Hurry()
	_, err := n.Wait()
	if err == nil || errors.Is(err, ErrNoLink) || !strings.Contains(err.Error(), "no address after 6s: "+port+": no answer from a DHCP server") {
		t.Fatalf("%v", err)
	}
}

func TestAnotherAttemptReplacesTheAddress(t *testing.T) {
	l, port := plugged(t)
	if l == nil {
		return
	}
	l.Dnsmasq(range1)
	for range 3 {
		n := start(t, "", func(c *Config) { c.Private = true })
		summary := n.wait()
		if i := n.state(port); len(i.Addresses) != 1 || !strings.Contains(summary, i.Addresses[0].Prefix.String()) {
			t.Errorf("addresses %v, summary %q", i.Addresses, summary)
		}
		n.stop()
	}
}
