package bootargs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAddressesAreReadAsTheKernelReadsThem(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64")
	for value, want := range map[string]IP{
		"dhcp":         {Method: MethodDHCP},
		"on":           {Method: MethodAny},
		"any":          {Method: MethodAny},
		"auto6":        {Method: MethodAuto6},
		"dhcp6":        {Method: MethodDHCP6},
		"off":          {Method: MethodOff},
		"none":         {Method: MethodOff},
		"link-local":   {Method: MethodLinkLocal},
		"192.0.2.7/24": {Method: MethodStatic, Address: v4},
		"192.0.2.7::192.0.2.1:255.255.255.0::eth0:none": {Method: MethodStatic, Address: v4, Gateway: v4.Addr().Prev().Prev().Prev().Prev().Prev().Prev(), Device: "eth0"},
		"192.0.2.7:::24":                                     {Method: MethodStatic, Address: v4},
		"192.0.2.7:192.0.2.9::24:host:eth0":                  {Method: MethodStatic, Address: v4, Device: "eth0"},
		"192.0.2.7:::24:::off:192.0.2.2:192.0.2.3:192.0.2.4": {Method: MethodStatic, Address: v4, Servers: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}},
		"[2001:db8::7]/64":                                   {Method: MethodStatic, Address: v6},
		"[2001:db8::7]::[2001:db8::1]:64::52-54-00-12-34-56:none:[2001:db8::2]": {
			Method: MethodStatic, Address: v6, Gateway: netip.MustParseAddr("2001:db8::1"), Device: "52:54:00:12:34:56", Servers: []netip.Addr{netip.MustParseAddr("2001:db8::2")},
		},
		"[2001:db8::7]::[fe80::1]:64": {Method: MethodStatic, Address: v6, Gateway: netip.MustParseAddr("fe80::1")},
		"eth0:dhcp":                   {Method: MethodDHCP, Device: "eth0"},
		"virtio_net:any:1400":         {Method: MethodAny, Device: "virtio_net", MTU: 1400},
		":::::eth1:dhcp":              {Method: MethodDHCP, Device: "eth1"},
		":::::eth1":                   {Method: MethodAny, Device: "eth1"},
		":::::eth1:dhcp:192.0.2.2":    {Method: MethodDHCP, Device: "eth1", Servers: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
	} {
		got, err := ParseIP(value)
		if diff := cmp.Diff(want, got, addressTypes, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v %s", value, err, diff)
		}
	}
	for value, want := range map[string]string{
		"":                                  "unknown method",
		"dhcp4":                             "unknown method",
		"192.0.2.7":                         "not a netmask",
		"192.0.2.7:::255.0.255.0":           "not a netmask",
		"192.0.2.7:::0":                     "not a netmask",
		"192.0.2.7/0":                       "not usable",
		"192.0.2.7/33":                      "prefix length",
		"192.0.2.7:::64":                    "prefix length",
		"224.0.0.1/24":                      "not usable",
		"127.0.0.1/8":                       "not usable",
		"255.255.255.255/8":                 "not usable",
		"[::ffff:192.0.2.7]/120":            "not usable",
		"192.0.2.7::2001:24":                "gateway",
		"192.0.2.7::[2001:db8::1]:24":       "same kind",
		"192.0.2.7:::24:::dhcp":             "write two arguments",
		"192.0.2.7:::24:::bootp":            "unknown method",
		"::192.0.2.1:24::eth0:dhcp":         "without an address",
		":::::eth0:static":                  "without an address",
		"192.0.2.7:::24:::none:dns":         "DNS server",
		"192.0.2.7:::24::et/h0":             "network card",
		"1:2:3:4:5:6:7:8:9:10:11":           "unknown method",
		"192.0.2.7:2:3:4:5:6:7:8:9:10:11":   "at most 10",
		"eth0:dhcp:68":                      "MTU",
		"eth0:dhcp:1500:52-54-00-12-34-56":  "only an MTU",
		"eth0:static":                       "unknown method",
		"[2001:db8::7":                      "no ]",
		"[2001:db8::7]64":                   "after ]",
		"2001:db8::7/64":                    "needs brackets",
		"192.0.2.300/24":                    "not an IPv4 address",
		"192.0.2.300::192.0.2.1:24":         "not an IPv4 address",
		"192.0.2.7::192.0.2.1:24:eth0:none": "a colon for the field HOSTNAME is missing",
	} {
		if got, err := ParseIP(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", value, got, err, want)
		}
	}
}

func FuzzParseIP(f *testing.F) {
	for _, s := range []string{"dhcp", "192.0.2.7::192.0.2.1:255.255.255.0::eth0:none", "[2001:db8::7]::[2001:db8::1]:64", "eth0:dhcp:1400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseIP(s)
		if err != nil {
			return
		}
		if p.Method == MethodStatic && (!p.Address.IsValid() || p.Address.Addr().IsUnspecified()) || len(p.Servers) > 2 || strings.ContainsAny(p.Device, "/ %") {
			t.Errorf("%q: %+v", s, p)
		}
		if p.Method != MethodStatic {
			return
		}
		again := fmt.Sprintf("[%s]:::%d", p.Address.Addr(), p.Address.Bits())
		if q, err := ParseIP(again); err != nil || q.Address != p.Address {
			t.Errorf("%q: %+v, %v", again, q, err)
		}
	})
}
