package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/netns"
)

// A started network with its console lines.
type started struct {
	*Network
	t    *testing.T
	stop context.CancelFunc

	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

// start starts a network with the arguments of a command line.
func start(t *testing.T, cmdline string, change func(*Config)) *started {
	t.Helper()
	args, err := bootargs.Check(cmdline)
	if err != nil {
		t.Fatal(err)
	}
	s := &started{t: t, changed: make(chan struct{})}
	c := Config{
		IP: args.IP, VLANs: args.VLANs, Bonds: args.Bonds, Interfaces: args.Interfaces,
		Resolv: filepath.Join(t.TempDir(), "resolv.conf"), Report: s.report,
	}
	if change != nil {
		change(&c)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	if s.Network, err = Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	s.stop = func() {
		stop()
		<-s.done
	}
	t.Cleanup(s.stop)
	return s
}

func (s *started) report(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
	s.t.Log(s.lines[len(s.lines)-1])
	close(s.changed)
	s.changed = make(chan struct{})
}

// console waits until the console has shown a line with all texts.
func (s *started) console(texts ...string) {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		shown := slices.ContainsFunc(s.lines, func(line string) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) })
		})
		changed := s.changed
		s.mu.Unlock()
		if shown {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("no line with %q on the console", texts)
		}
	}
}

// wait expects an address.
func (s *started) wait() (summary string) {
	s.t.Helper()
	summary, err := s.Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Log(summary)
	return summary
}

func (s *started) resolvConf() string {
	s.t.Helper()
	data, err := os.ReadFile(s.Resolv)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// route checks over which gateway and interface the kernel sends.
func (s *started) route(to, via, port string) {
	s.t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(routes) != 1 {
		s.t.Fatalf("route to %s: %v, %v", to, routes, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || !routes[0].Gw.Equal(net.ParseIP(via)) || link.Attrs().Name != port {
		s.t.Errorf("route to %s: %v, want %s on %s", to, routes[0], via, port)
	}
}

// state returns the state of the only interface with a name.
func (s *started) state(name string) Interface {
	s.t.Helper()
	st, err := s.State()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, i := range st.Interfaces {
		if i.Name == name {
			return i
		}
	}
	s.t.Fatalf("no interface %s in %+v", name, st)
	return Interface{}
}

const (
	range1 = "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0,1h"
	range2 = "--dhcp-range=10.77.2.50,10.77.2.60,255.255.255.0,1h"
)

func TestDHCPGivesAddressRoutesAndServers(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Dnsmasq(range1, "--dhcp-option=option:router,10.77.1.1", "--dhcp-option=option:dns-server,10.77.1.1,192.0.2.53", "--dhcp-option=option:domain-name,lan.example", "--dhcp-option=option:mtu,1400")
	n := start(t, "", nil)
	summary := n.wait()
	if !strings.HasPrefix(summary, port+" 10.77.1.") || !strings.HasSuffix(summary, "/24 from DHCP server 10.77.1.1") {
		t.Errorf("summary %q", summary)
	}
	if got := n.resolvConf(); !strings.HasPrefix(got, "nameserver 10.77.1.1\nnameserver 192.0.2.53\noptions ") {
		t.Errorf("resolv.conf %q", got)
	}
	n.route("192.0.2.1", "10.77.1.1", port)
	i := n.state(port)
	if i.Lease4 == nil || i.Lease4.Domain != "lan.example" || i.Lease4.Server != "10.77.1.1" || time.Until(i.Lease4.Until) < 50*time.Minute || i.MTU != 1400 || i.Kind != "ethernet" || i.Driver != "veth" || !i.Link {
		t.Errorf("state %+v, lease %+v", i, i.Lease4)
	}
	if len(i.Addresses) != 1 || i.Addresses[0].From != "dhcp4" || i.Addresses[0].Prefix != i.Lease4.Address {
		t.Errorf("addresses %+v", i.Addresses)
	}
	if !slices.ContainsFunc(i.Routes, func(r Route) bool { return r.To.Bits() == 0 && r.Via.String() == "10.77.1.1" }) {
		t.Errorf("routes %+v", i.Routes)
	}
}

func TestClasslessRoutesReplaceTheRouter(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Dnsmasq(range1, "--dhcp-option=option:router,10.77.1.9", "--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.1.2,0.0.0.0/0,10.77.1.3")
	n := start(t, "", nil)
	n.wait()
	n.route("198.51.100.7", "10.77.1.2", port)
	n.route("192.0.2.1", "10.77.1.3", port)
}

// One gateway is the machine itself, which the kernel refuses.
func TestARouteThatTheKernelRefusesIsLeftOut(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Dnsmasq("--dhcp-range=10.77.1.50,10.77.1.50,255.255.255.0,1h", "--dhcp-option=option:dns-server,10.77.1.53", "--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.1.50,0.0.0.0/0,10.77.1.3")
	n := start(t, "", nil)
	n.wait()
	n.console(port+": route to 198.51.100.0/24", "invalid argument")
	n.route("192.0.2.1", "10.77.1.3", port)
	if got := n.resolvConf(); !strings.HasPrefix(got, "nameserver 10.77.1.53\n") {
		t.Errorf("resolv.conf %q", got)
	}
}

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
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1)
	l.Plug(1)
	late := l.Cable(2)
	l.Dnsmasq(range1, range2)
	n := start(t, "", nil)
	if summary := n.wait(); strings.Contains(summary, late) {
		t.Fatalf("%q", summary)
	}
	l.Plug(2)
	n.console("network: " + late + " 10.77.2.")
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
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	n := start(t, "phase.ip=dhcp", nil)
	n.Hurry()
	_, err := n.Wait()
	if err == nil || errors.Is(err, ErrNoLink) || !strings.Contains(err.Error(), "no address after 6s: "+port+": no answer from a DHCP server") {
		t.Fatalf("%v", err)
	}
}

// The server of a site starts after its machines.
func TestADHCPServerThatStartsLateIsFound(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	n := start(t, "phase.ip=dhcp", func(c *Config) { c.Deadline = 4 * time.Second })
	_, err := n.Wait()
	if err == nil || !strings.Contains(err.Error(), port+": no answer from a DHCP server (2 requests)") || errors.Is(err, ErrNoLink) {
		t.Fatalf("%v", err)
	}
	l.Dnsmasq(range1)
	n.console("network: " + port + " 10.77.1.")
}

func TestALinkThatComesBackIsConfiguredAnew(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
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

func TestAnotherAttemptReplacesTheAddress(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
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

func TestPrivateModeSendsARandomAddressAndNoName(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	log, _ := l.Dnsmasq(range1, "--dhcp-option=224,http://10.77.1.1:8080")
	before := received6(t, l, "srv1", "Ip6InReceives")
	n := start(t, "", func(c *Config) { c.Private = true })
	n.wait()
	link, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	mac := link.Attrs().HardwareAddr
	if mac[0]&3 != 2 || mac.String() == "02:00:00:00:01:01" {
		t.Errorf("hardware address %s", mac)
	}
	if i := n.state(port); i.MAC != mac.String() || i.PermanentMAC != "02:00:00:00:01:01" {
		t.Errorf("%+v", i)
	}
	if summary, err := n.Leave(); err != nil || summary != "1 lease given back" {
		t.Errorf("%q, %v", summary, err)
	}
	seen := waitForText(t, log, "DHCPRELEASE")
	if !strings.Contains(seen, mac.String()) {
		t.Errorf("the server saw %s", seen)
	}
	for _, leak := range []string{"02:00:00:00:01:01", "client provides name", "vendor class", "224", "mtu"} {
		if strings.Contains(seen, leak) {
			t.Errorf("%q was sent:\n%s", leak, seen)
		}
	}
	if got := received6(t, l, "srv1", "Ip6InReceives"); got != before {
		t.Errorf("%s IPv6 packets were sent, %s before", got, before)
	}
	if addrs, err := netlink.AddrList(link, netlink.FAMILY_V4); err != nil || len(addrs) > 0 {
		t.Errorf("addresses %v, %v after the lease was given back", addrs, err)
	}
	if m, _ := n.Mirrors(); len(m) > 0 {
		t.Errorf("mirrors %q", m)
	}
}

// received6 returns how many IPv6 packets of a kind an interface of the LAN has received.
func received6(t *testing.T, l *netns.LAN, name, counter string) string {
	t.Helper()
	out, err := l.Command("cat", "/proc/thread-self/net/dev_snmp6/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == counter {
			return f[1]
		}
	}
	t.Fatalf("no %s in %s", counter, out)
	return ""
}

// waitForText waits until a file contains a text, and returns it.
func waitForText(t *testing.T, file, text string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(data), text) {
			return string(data)
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in %s, %v", text, data, err)
		}
	}
}

func TestPrivateModeUsesIPv6WhenDHCPGetsNoAnswer(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-only", "--ra-param=srv1,4,600")
	n := start(t, "", func(c *Config) { c.Private, c.Deadline = true, time.Minute })
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") {
		t.Errorf("%q", summary)
	}
}

// Only a mode that allows it asks for the option.
func TestAMirrorFromDHCPIsAHint(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1)
	l.Plug(1)
	l.Dnsmasq(range1, "--dhcp-option=224,http://10.77.1.1:8080")
	n := start(t, "", func(c *Config) { c.AskMirror = true })
	_, more := n.Mirrors()
	n.wait()
	<-more
	if m, _ := n.Mirrors(); !slices.Equal(m, []string{"http://10.77.1.1:8080"}) {
		t.Errorf("mirrors %q", m)
	}
	n.console("DHCP server 10.77.1.1 names mirror http://10.77.1.1:8080", "hint")
	n.stop()
	n = start(t, "", nil)
	n.wait()
	if m, _ := n.Mirrors(); len(m) > 0 {
		t.Errorf("mirrors %q without being asked for", m)
	}
}

func TestAnIPv6NetworkHasAddressesAndNameServers(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-only", "--dhcp-option=option6:dns-server,[fd77::53]")
	n := start(t, "", nil)
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") || !strings.HasSuffix(summary, "/64 from IPv6 router advertisements") {
		t.Fatalf("%q", summary)
	}
	n.console("name server fd77::53 from IPv6 router advertisements")
	if got := n.resolvConf(); !strings.Contains(got, "nameserver fd77::53\n") {
		t.Errorf("resolv.conf %q", got)
	}
	if i := n.state(port); len(i.Addresses) != 1 || i.Addresses[0].From != "ra" || !slices.ContainsFunc(i.Routes, func(r Route) bool { return r.To.Bits() == 0 && r.Via.Is6() }) || !i.Asks4 {
		t.Errorf("%+v", i)
	}
	// The kernel keeps the address for the next attempt, and not the name servers.
	n.stop()
	before := received6(t, l, "srv1", "Icmp6InRouterSolicits")
	n = start(t, "", nil)
	n.wait()
	n.console("name server fd77::53 from IPv6 router advertisements")
	if got := received6(t, l, "srv1", "Icmp6InRouterSolicits"); got == before {
		t.Error("the second attempt has asked no router")
	}
}

func TestARouterThatSaysSoIsFollowedToDHCPv6(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	log, _ := l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,1h", "--dhcp-option=option6:dns-server,[fd77::53]", "--dhcp-option=option6:domain-search,lan.example")
	n := start(t, "", nil)
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::1") || !strings.HasSuffix(summary, "/128 from a DHCPv6 server") {
		t.Fatalf("%q", summary)
	}
	if got := n.resolvConf(); !strings.Contains(got, "nameserver fd77::53\n") {
		t.Errorf("resolv.conf %q", got)
	}
	i := n.state(port)
	if i.Lease6 == nil || i.Lease6.Domain != "lan.example" || !slices.ContainsFunc(i.Addresses, func(a Address) bool { return a.From == "dhcp6" && a.Prefix == i.Lease6.Address }) {
		t.Errorf("%+v, lease %+v", i, i.Lease6)
	}
	if summary, err := n.Leave(); err != nil || summary != "1 lease given back" {
		t.Errorf("%q, %v", summary, err)
	}
	waitForText(t, log, "DHCPRELEASE")
}

func TestARouterWithoutAddressesOfDHCPv6GivesItsNameServers(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	_, end := l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::,ra-stateless", "--dhcp-option=option6:dns-server,[fd77::53]")
	n := start(t, "phase.ip=auto6", nil)
	if summary := n.wait(); !strings.HasPrefix(summary, port+" fd77::") || !strings.HasSuffix(summary, "router advertisements") {
		t.Fatalf("%q", summary)
	}
	n.console("name server fd77::53 from a DHCPv6 server")
	end() // later the router says that DHCPv6 has addresses too
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,1h")
	n.console("network: "+port+" fd77::1", "/128 from a DHCPv6 server")
}

func TestDHCPv6OfTheCommandLineTakesNoOtherAddress(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	l.Run("ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.Dnsmasq("--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,slaac,64,1h", range1)
	n := start(t, "phase.ip="+port+":dhcp6", nil)
	if summary := n.wait(); !strings.HasSuffix(summary, "from a DHCPv6 server") {
		t.Fatalf("%q", summary)
	}
	if i := n.state(port); len(i.Addresses) != 1 || i.Lease4 != nil || !i.NoSLAAC {
		t.Errorf("%+v", i)
	}
}

func TestStaticAddressesNeedNoServer(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	n := start(t, "phase.ip=10.77.1.9::10.77.1.1:255.255.255.0::"+port+":none:10.77.1.53 phase.ip=[fd77::9]::[fd77::1]:64::02-00-00-00-01-01", func(c *Config) { c.Deadline = time.Minute })
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

func TestOnlyNamedPortsAreUsed(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1)
	l.Plug(1)
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

// Two machines on one cable: both ports are of this machine.
func TestTwoPortsOnOneCableGetLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "left"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "right"}); err != nil {
		t.Fatal(err)
	}
	n := start(t, "", nil)
	if summary := n.wait(); !strings.Contains(summary, "/16, link-local: no DHCP server answers") {
		t.Fatalf("%q", summary)
	}
	seen := map[netip.Addr]bool{}
	for _, name := range []string{"left", "right"} {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			i := n.state(name)
			if len(i.Addresses) == 1 && i.Addresses[0].From == "link-local" {
				seen[i.Addresses[0].Prefix.Addr()] = true
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", name, i.Addresses)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("addresses %v", seen)
	}
}

func TestALinkLocalAddressOfAnotherMachineIsNotTaken(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	mac := net.HardwareAddr{2, 0, 0, 0, 1, 1}
	l.Run("ip", "addr", "add", linkLocalCandidate(mac, 0).String()+"/16", "dev", "srv1")
	l.Plug(1)
	n := start(t, "phase.ip="+port+":link-local", nil)
	second := linkLocalCandidate(mac, 1).String()
	if summary := n.wait(); summary != port+" "+second+"/16, link-local" {
		t.Fatalf("%q, want %s", summary, second)
	}
	// Later another machine takes it all the same.
	l.Run("ip", "addr", "add", second+"/16", "dev", "srv1")
	l.Do(func() {
		link, err := netlink.LinkByName("srv1")
		if err != nil {
			t.Fatal(err)
		}
		c, err := openARP(t.Context(), link)
		if err != nil || c.request(netip.MustParseAddr(second), netip.MustParseAddr(second)) != nil {
			t.Fatal(err)
		}
	})
	n.console("another machine has " + second)
}

// The interface of the test appears only after the first try.
func TestALinkLocalAddressIsTriedAgain(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "late", 77
	late := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}
	n := start(t, "phase.interface=none", nil)
	n.ask(func() {
		p := newPort(late)
		p.ctx = n.ctx
		n.startLinkLocal(p)
	})
	n.console("network: late: link-local address: ")
	if err := netlink.LinkAdd(late); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"late", "peer"} {
		if link, err := netlink.LinkByName(name); err != nil || netlink.LinkSetUp(link) != nil {
			t.Fatal(name, err)
		}
	}
	n.console("network: late 169.254.", "/16, link-local")
}

func TestALeaseReplacesTheLinkLocalAddress(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	port := l.Cable(1)
	l.Plug(1)
	n := start(t, "", nil)
	if summary := n.wait(); !strings.Contains(summary, "169.254.") {
		t.Fatalf("%q", summary)
	}
	l.Dnsmasq(range1)
	n.console("network: " + port + " 10.77.1.")
	if i := n.state(port); len(i.Addresses) != 1 || i.Addresses[0].From != "dhcp4" {
		t.Errorf("%+v", i.Addresses)
	}
}

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
