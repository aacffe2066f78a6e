package bootargs

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
)

var addressTypes = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestArgumentsOfTheNetwork(t *testing.T) {
	a := Parse("ip=dhcp phase.ip=eth0:auto6 phase.ip=192.0.2.7/24 phase.interface=eth0,52:54:00:12:34:56 phase.interface=e1000e phase.vlan=vlan7:eth0 phase.bond=bond0:eth0 phase.proxy=socks5://192.0.2.1:1080")
	if len(a.Warnings) > 0 || len(a.IP) != 2 || a.IP[0].Plain || len(a.VLANs) != 1 || len(a.Bonds) != 1 || a.Proxy != "socks5://192.0.2.1:1080" {
		t.Errorf("%+v", a)
	}
	if want := []string{"eth0", "52:54:00:12:34:56", "e1000e"}; !slices.Equal(a.Interfaces, want) {
		t.Errorf("interfaces %q", a.Interfaces)
	}
	if a := Parse("ip=dhcp ip=192.0.2.7/24"); len(a.IP) != 2 || len(a.Warnings) > 0 {
		t.Errorf("without phase.ip=: %+v", a)
	}
	if a := Parse("phase.proxy=http://user:s3cret@proxy:x"); len(a.Warnings) != 1 || strings.Contains(a.Warnings[0], "s3cret") || a.Proxy != "" {
		t.Errorf("%+v", a)
	}
}
