package network

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

func TestPlansOfPorts(t *testing.T) {
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, last} }
	ports := map[string]*port{
		"eth0":  {name: "eth0", kind: "ethernet", driver: "virtio_net", permanent: mac(0)},
		"eth1":  {name: "eth1", kind: "ethernet", driver: "e1000e", permanent: mac(1)},
		"vlan7": {name: "vlan7", kind: "vlan"},
		"bond0": {name: "bond0", kind: "bond"},
	}
	const all, v4, v6, off, fixed, moving, unused = "all", "DHCPv4", "IPv6", "nothing", "static", "static on one port", "not used"
	for cmdline, want := range map[string]map[string]string{
		"":                                           {"eth0": all, "eth1": all, "vlan7": unused},
		"phase.ip=dhcp":                              {"eth0": v4, "eth1": v4},
		"phase.ip=auto6":                             {"eth0": v6},
		"phase.ip=dhcp6":                             {"eth0": v6},
		"phase.ip=off":                               {"eth0": off},
		"phase.ip=eth0:dhcp":                         {"eth0": v4, "eth1": off},
		"phase.ip=eth0:dhcp phase.ip=any":            {"eth0": v4, "eth1": all},
		"phase.ip=192.0.2.7/24":                      {"eth0": moving, "eth1": moving},
		"phase.ip=192.0.2.7:::24::e1000e":            {"eth0": off, "eth1": fixed},
		"phase.ip=52-54-00-00-00-01:dhcp":            {"eth0": off, "eth1": v4},
		"phase.vlan=vlan7:eth0":                      {"eth0": off, "eth1": all, "vlan7": all},
		"phase.vlan=vlan7:eth0 phase.ip=eth0:dhcp":   {"eth0": v4, "eth1": off, "vlan7": off},
		"phase.vlan=vlan7:52:54:00:00:00:01":         {"eth0": all, "eth1": off},
		"phase.bond=bond0:eth0,e1000e":               {"eth0": off, "eth1": off, "bond0": all},
		"phase.bond=bond0:eth0 phase.vlan=v7:bond0":  {"eth0": off, "eth1": all, "bond0": off},
		"phase.interface=eth1":                       {"eth0": unused, "eth1": all},
		"phase.interface=virtio_net":                 {"eth0": all, "eth1": unused},
		"phase.interface=eth1 phase.vlan=vlan7:eth0": {"eth0": off, "eth1": all, "vlan7": all},
		"phase.interface=eth1 phase.ip=eth0:dhcp":    {"eth0": v4, "eth1": off},
	} {
		args, err := bootargs.Check(cmdline)
		if err != nil {
			t.Fatal(err)
		}
		n := &Network{Config: Config{IP: args.IP, VLANs: args.VLANs, Bonds: args.Bonds, Interfaces: args.Interfaces}}
		for name, what := range want {
			p := *ports[name]
			p.bond = n.bondOf(&p)
			got, plan := off, n.planOf(&p)
			switch {
			case !n.uses(&p):
				got = unused
			case plan.dhcp4 && plan.ra && plan.autoconf && plan.fallback:
				got = all
			case plan.dhcp4 && !plan.ipv6():
				got = v4
			case plan.ra && !plan.dhcp4 && plan.autoconf != plan.dhcp6:
				got = v6
			case plan.common:
				got = moving
			case len(plan.static) > 0:
				got = fixed
			case !plan.idle():
				t.Errorf("%q: %s: %+v", cmdline, name, plan)
			}
			if got != what {
				t.Errorf("%q: %s: %s, want %s", cmdline, name, got, what)
			}
		}
	}
	private := &Network{Config: Config{Private: true}}
	if p := private.planOf(ports["eth0"]); !p.dhcp4 || p.fallback || !p.late6 {
		t.Errorf("private: %+v", p)
	}
	private.IP = []bootargs.IP{{Method: bootargs.MethodAny}, {Method: bootargs.MethodStatic, Address: netip.MustParsePrefix("2001:db8::7/64")}}
	if p := private.merge(private.IP); p.late6 {
		t.Errorf("private, with a static IPv6 address: %+v", p)
	}
}

// The index of a VLAN grows with each attempt. The order of the ports must not depend on it.
func TestRanksOfPortsStaySmall(t *testing.T) {
	n := &Network{ports: map[int]*port{2: {index: 2, rank: 0}, 1700: {index: 1700, rank: 2}}}
	if got := n.freeRank(); got != 1 {
		t.Errorf("rank %d", got)
	}
	n.ports[1701] = &port{index: 1701, rank: 1, reaches4: true}
	if list := n.sorted(); list[0].index != 1701 || list[1].index != 2 || list[2].metric() > 1000 {
		t.Errorf("%+v", list)
	}
}

// A lease whose renewal gets no answer is still an address; one from before the link was lost may be of
// another network.
func TestWhichPortsNeedALinkLocalAddress(t *testing.T) {
	static := []bootargs.IP{{Method: bootargs.MethodStatic}}
	for name, tt := range map[string]struct {
		port port
		want bool
	}{
		"nothing":                    {port{}, true},
		"a lease":                    {port{lease: &lease{}}, false},
		"a lease of another network": {port{lease: &lease{}, moved: true}, true},
		"a static address":           {port{static: static, moved: true}, false},
		"an IPv6 address":            {port{addrs6: map[netip.Prefix]bool{{}: true}, moved: true}, false},
	} {
		if got := tt.port.unaddressed(); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestOnlyNamedPortsAreUsed(t *testing.T) {
	l, _ := plugged(t)
	if l == nil {
		return
	}
	two := l.Cable(2)
	l.Plug(2)
	l.Dnsmasq(range1, range2)
	for _, cmdline := range []string{"phase.interface=" + two, "phase.interface=02:00:00:00:01:02", "phase.ip=" + two + ":dhcp"} {
		n := start(t, cmdline, nil)
		if summary := n.wait(); !strings.HasPrefix(summary, two+" 10.77.2.") || strings.Contains(summary, ";") {
			t.Errorf("%s: %q", cmdline, summary)
		}
		n.stop()
	}
	n := start(t, "phase.interface=port7", func(c *Config) { c.NICTimeout = time.Second })
	if _, err := n.Wait(); err == nil || !strings.Contains(err.Error(), "phase.interface=port7: no such network card; there are: port1 (02:00:00:00:01:01, veth); port2") {
		t.Errorf("%v", err)
	}
	n.stop()
	n = start(t, "phase.ip=192.0.2.7/24:::::port7:none", func(c *Config) { c.NICTimeout = time.Second })
	if _, err := n.Wait(); err == nil || !strings.Contains(err.Error(), "phase.ip= names no port of this machine; there are: port1 (") {
		t.Errorf("%v", err)
	}
	n.stop()
	if summary := start(t, "phase.interface=veth", nil).wait(); !strings.Contains(summary, "10.77.") {
		t.Errorf("by driver: %q", summary)
	}
}
