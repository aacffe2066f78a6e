//go:build machine

package e2e

import (
	"path/filepath"
	"time"
)

// networkRows are the causes between the machine and the network.
var networkRows = []row{
	{
		name: "no-card", situation: "no network card; then one is plugged in",
		says: []string{"network: failed: no wired network card", refused, menuShown, "waiting for a"}, ends: "a card is plugged in",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), "none", "-device", "pcie-root-port,id=hp1,chassis=1", "-netdev", "tap,id=lan,ifname="+s.tap()+",script=no,downscript=no")
		},
		remove: func(s *site) { s.m.plugCard("52:54:00:aa:bb:01") }, menu: true,
	},
	{
		name: "late-carrier", situation: "no link for 40 s",
		says: []string{"no address after 15s: eth0: no link"}, ends: "the link comes up",
		sign:   "network: eth0 10.55.0.",
		start:  func(s *site) { s.unplugged() },
		remove: func(s *site) { s.m.setLink(theCard, true) }, lasts: 25 * time.Second,
	},
	{
		name: "no-carrier", situation: "no cable until the attempt has failed",
		says: []string{"no address after 15s: eth0: no link", refused, menuShown, "waiting for a"}, ends: "the cable is plugged in",
		start:  func(s *site) { s.unplugged() },
		remove: func(s *site) { s.m.setLink(theCard, true) }, menu: true,
	},
	{
		name: "late-dhcp", situation: "the DHCP server starts 60 s late",
		says: []string{"network: eth0 169.254."}, ends: "the server starts",
		sign: "network: eth0 10.55.0.",
		start: func(s *site) {
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), s.port())
		},
		remove: func(s *site) { s.dhcp() }, lasts: 50 * time.Second,
	},
	{
		name: "no-dhcp", situation: "no DHCP server until the attempt has failed",
		says: []string{"network: eth0 169.254.", refused, menuShown}, ends: "the server starts",
		start: func(s *site) {
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), s.port())
		},
		remove: func(s *site) { s.dhcp() }, lasts: 5 * time.Second, menu: true,
	},
	{
		name: "late-dhcp-mirror", situation: "the DHCP server, which names the only mirror, starts 60 s late",
		says: []string{"network: eth0 169.254."}, ends: "the server starts",
		sign: "network: eth0 10.55.0.",
		start: func(s *site) {
			h := s.host()
			h.publish("--dht", "off", "--mdns=false")
			s.values["mirror"] = "http://" + h.addr + ":8080"
			s.on(fx.path("local.img"), s.port())
		},
		remove: func(s *site) { s.dhcp("--dhcp-option=224," + s.values["mirror"].(string)) }, lasts: 50 * time.Second,
	},
	{
		name: "spanning-tree", situation: "the switch forwards nothing for 35 s (spanning tree)",
		says: []string{"network: eth0 169.254."}, ends: "the switch forwards",
		sign: "network: eth0 10.55.0.",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			tap := s.tap()
			s.ip("link", "set", tap, "nomaster")
			s.ip("link", "set", "br0", "type", "bridge", "stp_state", "1", "forward_delay", "1750") // twice 17.5 s
			s.on(fx.path("local.img"), "tap:"+tap)
			s.m.waitFrom(0, []string{"] random numbers: "})
			s.ip("link", "set", tap, "master", "br0")
			s.until = time.Now().Add(35 * time.Second)
		},
		remove: func(*site) {},
	},
	{
		name: "link-lost", situation: "the cable is pulled in the middle of the fetch, for 30 s",
		says: []string{"network: eth0: the link is lost", "fetch: no block for"}, ends: "the cable is back",
		start: func(s *site) {
			s.dhcp()
			s.slow(s.host()).publish("--dht", "off")
			s.on(fx.path("local.img"), s.port())
			s.fetches()
			s.m.setLink(theCard, false)
		},
		remove: func(s *site) { s.m.setLink(theCard, true) }, lasts: 20 * time.Second, sign: rate,
	},
	{
		name: "ipv6-rdnss", situation: "IPv6 only, with a router that names a DNS server",
		says: []string{"network: eth0 fd55:", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.onIPv6("--dhcp-range=fd55::,ra-stateless") },
	},
	{
		name: "ipv6-dhcpv6", situation: "IPv6 only, with addresses from DHCPv6",
		says: []string{"network: eth0 fd55::", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.onIPv6("--dhcp-range=fd55::100,fd55::1ff,64,1h") },
	},
	{
		name: "static", situation: "no DHCP server; a static address",
		says: []string{"network: eth0 10.55.0.77/24", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.host().publish("--dht", "off")
			s.on(s.image("--default-mode", "local", "--cmdline", "phase.ip=10.55.0.77/24"), s.port())
		},
	},
	{
		name: "vlan", situation: "a VLAN with a tag",
		says: []string{"network: vlan7 10.55.0.", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(s.image("--default-mode", "local", "--cmdline", "phase.vlan=vlan7:eth0"), "none", s.onVLAN7()...)
		},
	},
	{
		name: "bond", situation: "a bond, whose first port has no link",
		says: []string{"network: bond0 10.55.0.", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(s.image("--default-mode", "local", "--cmdline", "phase.bond=bond0:eth0,eth1"), "none", append(twoPorts(s.dead(), s.tap()), "-S")...)
			s.m.startUnplugged("first")
		},
	},
	{
		name: "dead-port", situation: "two ports; nothing answers on the first",
		says: []string{"network: eth1 10.55.0.", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), "none", twoPorts(s.dead(), s.tap())...)
		},
	},
	{
		name: "wrong-route", situation: "two ports with a default route; only the second leads to the mirror",
		says: []string{"eth0 10.56.0.", "network: eth1 reaches 192.0.2.80:8080; its routes are preferred", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			wrong := newSegment(s.t, "10.56.0")
			wrong.dhcp()
			s.dhcp()
			h := s.host()
			must(s.t, "ip", "-n", h.ns, "addr", "add", "192.0.2.80/32", "dev", "lo")
			must(s.t, "ip", "netns", "exec", s.name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
			s.ip("route", "add", "192.0.2.80/32", "via", h.addr)
			h.publish("--dht", "off", "--mdns=false", "--http", "192.0.2.80:8080")
			port := wrong.tap()
			wrong.ip("link", "set", port, "nomaster")
			wrong.ip("link", "set", port, "netns", "/run/netns/"+s.name, "name", "wrong0")
			s.bridgeTo(wrong, "wrong0")
			s.on(s.image("--default-mode", "internet", "--cmdline", "phase.mirror=http://192.0.2.80:8080"), "none", twoPorts("wrong0", s.tap())...)
		},
	},
	{
		name: "http-proxy", situation: "the mirror is reached by an HTTP proxy only",
		says: []string{"network: eth0 10.55.0.", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.behindProxy("http") },
	},
	{
		name: "socks-proxy", situation: "the mirror is reached by a SOCKS5 proxy only",
		says: []string{"network: eth0 10.55.0.", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.behindProxy("socks5") },
	},
}

// unplugged starts a machine whose cable is not plugged in.
func (s *site) unplugged() {
	s.t.Helper()
	s.dhcp()
	s.host().publish("--dht", "off")
	s.on(fx.path("local.img"), s.port(), "-S")
	s.m.startUnplugged(theCard)
}

// rate is in the line of progress while data arrive.
const rate = "iB/s, "

// fetches waits until the machine is in the middle of the fetch.
func (s *site) fetches() {
	s.t.Helper()
	s.m.waitFrom(0, []string{"] fetch: ", rate, rate, rate}, started)
}

// dead returns a port that leads nowhere.
func (s *site) dead() string {
	s.t.Helper()
	name := s.tap()
	s.ip("link", "set", name, "nomaster")
	return name
}

// bridgeTo connects a port in the namespace of s with another segment.
func (s *site) bridgeTo(other *lan, port string) {
	s.t.Helper()
	s.ip("link", "add", "br1", "type", "bridge", "mcast_snooping", "0")
	s.ip("link", "add", "trunk1", "type", "veth", "peer", "name", "trunk1", "netns", other.name)
	for _, name := range []string{port, "trunk1"} {
		s.ip("link", "set", name, "master", "br1")
		s.ip("link", "set", name, "up")
	}
	s.ip("link", "set", "br1", "up")
	other.ip("link", "set", "trunk1", "master", "br0")
	other.ip("link", "set", "trunk1", "up")
}

// slow limits what a host sends to 2 MB a second.
func (s *site) slow(h host) host {
	s.t.Helper()
	if out, err := h.command("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "16mbit", "burst", "64kb", "latency", "400ms").CombinedOutput(); err != nil {
		s.t.Fatalf("tc: %v: %s", err, out)
	}
	return h
}

// onIPv6 starts a machine on a network without IPv4. Its mirror has a name, which only the DNS server of
// the network knows.
func (s *site) onIPv6(options ...string) {
	s.t.Helper()
	s.ip("addr", "flush", "dev", "br0", "scope", "global")
	s.ip("addr", "add", "fd55::1/64", "dev", "br0", "nodad")
	h := s.host()
	must(s.t, "ip", "-n", h.ns, "addr", "add", "fd55::80/64", "dev", "eth0", "nodad")
	d := s.dnsmasq(append(options, "--enable-ra", "--dhcp-option=option6:dns-server,[fd55::1]", "--address=/mirror.test/fd55::80")...)
	d.logs(s.t, "router advertisement on")
	h.publish("--dht", "off", "--mdns=false", "--http", "[fd55::80]:8080", "--listen", "/ip6/fd55::80/tcp/4001")
	s.on(s.image("--default-mode", "internet", "--cmdline", "phase.mirror=http://mirror.test:8080"), s.port())
}

// behindProxy starts a machine on a network without a way out but a proxy. The mirror is on another
// network.
func (s *site) behindProxy(kind string) {
	s.t.Helper()
	s.dhcp()
	outside := newSegment(s.t, "192.0.2")
	h := outside.host()
	h.publish("--dht", "off", "--mdns=false")
	proxy := s.host()
	port := "out0"
	outside.ip("link", "add", port, "type", "veth", "peer", "name", "eth1", "netns", proxy.ns)
	outside.ip("link", "set", port, "master", "br0")
	outside.ip("link", "set", port, "up")
	must(s.t, "ip", "-n", proxy.ns, "addr", "add", "192.0.2.200/24", "dev", "eth1")
	must(s.t, "ip", "-n", proxy.ns, "link", "set", "eth1", "up")
	proxy.serve(fx.bin("proxy"), kind, proxy.addr+":3128")
	mirror := "http://" + h.addr + ":8080"
	if err := s.host().command("curl", "-sS", "-m", "2", mirror).Run(); err == nil { // any answer counts
		s.t.Fatal("the mirror is reached without the proxy: the row would prove nothing")
	}
	s.on(s.image("--default-mode", "internet", "--cmdline", "phase.mirror="+mirror+" phase.proxy="+kind+"://"+proxy.addr+":3128"), s.port())
}

var publisherRows = []row{
	{
		name: "late-publisher", situation: "no publisher for 5 minutes",
		says: []string{"network: eth0 10.55.0.", refused, "to try: check the network cable"}, ends: "the publisher starts",
		sign: "] resolve: stable",
		start: func(s *site) {
			s.dhcp()
			s.on(fx.path("local.img"), s.port())
			s.m.waitFrom(0, []string{"network: eth0 10.55.0."})
			s.until = time.Now().Add(5 * time.Minute)
		},
		remove: func(s *site) { s.host().publish("--dht", "off") },
	},
	{
		name: "publisher-gone", situation: "the publisher is gone for 60 s in the middle of the fetch",
		says: []string{"] fetch: ", "fetch: no block for"}, ends: "the publisher is back",
		sign: rate,
		start: func(s *site) {
			s.dhcp()
			h := s.slow(s.host())
			key := filepath.Join(s.dir, "peer.key")
			p := h.publish("--dht", "off", "--identity", key)
			s.values["again"] = func() { h.publish("--dht", "off", "--identity", key) }
			s.on(fx.path("local.img"), s.port())
			s.fetches()
			p.daemon.Process.Kill()
			p.stop()
		},
		remove: func(s *site) { s.values["again"].(func())() }, lasts: 45 * time.Second,
	},
}
