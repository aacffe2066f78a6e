package network

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestALeaseWithoutAUsableAddressIsRefused(t *testing.T) {
	for name, change := range map[string]dhcpv4.Modifier{
		"no address": dhcpv4.WithYourIP(net.IPv4zero),
		"multicast":  dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)),
		"loopback":   dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
		"broadcast":  dhcpv4.WithYourIP(net.IPv4bcast),
		"no mask":    dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)),
		"empty mask": dhcpv4.WithNetmask(net.IPv4Mask(0, 0, 0, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)), dhcpv4.WithNetmask(net.IPv4Mask(255, 255, 255, 0)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readLease(ack, 1); err != nil {
				t.Fatalf("the valid one: %v", err)
			}
			change(ack)
			if l, err := readLease(ack, 1); err == nil {
				t.Errorf("accepted: %+v", l)
			}
		})
	}
}

func FuzzLease(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)), dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 0, 0, 1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		ack, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		l, err := readLease(ack, 1)
		if err != nil {
			return
		}
		if !l.addr.IP.IsGlobalUnicast() || len(l.routes) > maxRoutes+maxLeaseServers {
			t.Errorf("%+v", l)
		}
	})
}

func TestHostBitsOfARouteAreCleared(t *testing.T) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)), dhcpv4.WithNetmask(net.IPv4Mask(255, 255, 255, 0)),
		dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{
			Dest: &net.IPNet{IP: net.IPv4(129, 210, 177, 132), Mask: net.CIDRMask(25, 32)}, Router: net.IPv4(10, 0, 0, 2),
		})))
	if err != nil {
		t.Fatal(err)
	}
	l, err := readLease(ack, 1) // the example of RFC 3442
	if err != nil || len(l.routes) != 1 || l.routes[0].Dst.String() != "129.210.177.128/25" {
		t.Errorf("%+v, %v", l, err)
	}
}

// A name server that a route of the lease covers is not sent to the default gateway.
func TestRoutesToNameServersFollowTheLease(t *testing.T) {
	route := func(to string, last byte) *dhcpv4.Route {
		_, dest, err := net.ParseCIDR(to)
		if err != nil {
			t.Fatal(err)
		}
		return &dhcpv4.Route{Dest: dest, Router: net.IPv4(192, 168, 1, last)}
	}
	ack, err := dhcpv4.New(
		dhcpv4.WithYourIP(net.IPv4(192, 168, 1, 5)), dhcpv4.WithNetmask(net.IPv4Mask(255, 255, 255, 0)),
		dhcpv4.WithDNS(net.IPv4(10, 0, 0, 53), net.IPv4(192, 0, 2, 53), net.IPv4(192, 168, 1, 53)),
		dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(route("0.0.0.0/0", 1), route("10.0.0.0/8", 254))),
	)
	if err != nil {
		t.Fatal(err)
	}
	l, err := readLease(ack, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range l.routes {
		got = append(got, r.Dst.String()+" "+r.Gw.String())
	}
	if want := []string{"0.0.0.0/0 192.168.1.1", "10.0.0.0/8 192.168.1.254", "192.0.2.53/32 192.168.1.1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestALeaseIsRenewedInTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, tt := range map[string]struct {
		options      []dhcpv4.Modifier
		until, renew time.Duration
	}{
		"an hour":              {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(3600)}, time.Hour, 30 * time.Minute},
		"a time to renew":      {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 2, 88}))}, time.Hour, 10 * time.Minute},
		"a late time to renew": {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 28, 32}))}, time.Hour, 30 * time.Minute},
		"one second":           {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(1)}, time.Second, renewLeast},
		"for ever":             {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(forever)}, 0, 0},
		"no time":              {nil, 0, 0},
	} {
		ack, err := dhcpv4.New(tt.options...)
		if err != nil {
			t.Fatal(err)
		}
		var l lease
		l.setTimes(ack, now)
		if l.renew != tt.renew || tt.until == 0 && !l.until.IsZero() || tt.until > 0 && !l.until.Equal(now.Add(tt.until)) {
			t.Errorf("%s: until %v, renewed after %v", name, l.until, l.renew)
		}
	}
}

// Any host on the link can write the option.
func TestAMirrorOfALeaseIsAWebAddress(t *testing.T) {
	for value, want := range map[string]bool{
		"http://192.0.2.1:8080":                 true,
		"https://mirror.example/m":              true,
		"file:///etc":                           false,
		"ftp://192.0.2.1":                       false,
		"http://192.0.2.1/\x1b[2J":              false,
		"http://192.0.2.1 phase":                false,
		"http://192.0.2.1/?q":                   false,
		"":                                      false,
		"http://a/" + string(make([]byte, 300)): false,
	} {
		ack, err := dhcpv4.New(dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(optionMirror), []byte(value)))
		if err != nil {
			t.Fatal(err)
		}
		if got := mirrorOf(ack); (got == value && value != "") != want || !want && got != "" {
			t.Errorf("%q: %q", value, got)
		}
	}
}
