package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/netns"
)

// A lan is a network namespace with the other ends of the machine's cables.
type lan struct{ pid int }

func newLAN(t *testing.T) *lan {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	background(t, cmd)
	return &lan{cmd.Process.Pid}
}

// background runs a command until the end of the test.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// command returns a command that runs in the LAN.
func (l *lan) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(l.pid), "-n", name}, args...)...)
}

func (l *lan) run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := l.command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// cable connects portN of the machine with srvN of the LAN, which has 10.77.N.1/24 and is down.
// Hardware addresses are fixed.
func (l *lan) cable(t *testing.T, n int) (port string) {
	t.Helper()
	port, far := fmt.Sprintf("port%d", n), fmt.Sprintf("srv%d", n)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 1, byte(n)}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsPid(l.pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	l.run(t, "ip", "addr", "add", fmt.Sprintf("10.77.%d.1/24", n), "dev", far)
	return port
}

// plug brings up the LAN's end of a cable.
func (l *lan) plug(t *testing.T, n int) {
	t.Helper()
	l.run(t, "ip", "link", "set", fmt.Sprintf("srv%d", n), "up")
}

// dnsmasq runs a DHCP server in the LAN and returns the path of its log file.
func (l *lan) dnsmasq(t *testing.T, options ...string) (log string) {
	t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil && !exists("/usr/sbin/dnsmasq") {
		t.Fatal("dnsmasq is missing; run: apt-get install dnsmasq-base")
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	cmd := l.command("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--user=", "--group=", "--port=0", "--no-ping", "--log-dhcp",
		"--dhcp-authoritative", "--log-facility=" + log, "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=",
	}, options...)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stderr = os.Stderr
	background(t, cmd)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until it serves
		if text, err := os.ReadFile(log); err == nil && strings.Contains(string(text), "IP range") {
			return log
		}
		if time.Now().After(end) {
			t.Fatal("dnsmasq did not start")
		}
	}
}

func bringUp(t *testing.T, n *network) (string, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(stop)
	n.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	n.report = t.Logf
	return n.up(ctx)
}

func TestDHCPGivesAddressRoutesAndServers(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0", "--dhcp-option=option:router,10.77.1.1",
		"--dhcp-option=option:dns-server,10.77.1.1,10.77.1.2")
	n := &network{}
	summary, err := bringUp(t, n)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(summary, port+" 10.77.1.") || !strings.HasSuffix(summary, "/24 from DHCP server 10.77.1.1") {
		t.Errorf("summary %q", summary)
	}
	if got, err := os.ReadFile(n.resolv); err != nil || string(got) != "nameserver 10.77.1.1\nnameserver 10.77.1.2\n" {
		t.Errorf("resolv.conf %q, %v", got, err)
	}
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	if err != nil || len(routes) != 1 || !routes[0].Gw.Equal(net.IPv4(10, 77, 1, 1)) {
		t.Errorf("default route: %v, %v", routes, err)
	}
}

func TestClasslessRoutesReplaceTheRouter(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	l.plug(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0", "--dhcp-option=option:router,10.77.1.9",
		"--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.1.2,0.0.0.0/0,10.77.1.3")
	if _, err := bringUp(t, &network{}); err != nil {
		t.Fatal(err)
	}
	for to, via := range map[string]string{"198.51.100.7": "10.77.1.2", "192.0.2.1": "10.77.1.3"} {
		routes, err := netlink.RouteGet(net.ParseIP(to))
		if err != nil || len(routes) != 1 || !routes[0].Gw.Equal(net.ParseIP(via)) {
			t.Errorf("route to %s: %v, %v", to, routes, err)
		}
	}
}

func TestTheFirstLeaseEndsTheWaitForOtherInterfaces(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1) // without a link: the other end stays down
	l.cable(t, 2) // with a link, without a DHCP server
	l.plug(t, 2)
	port := l.cable(t, 3)
	l.plug(t, 3)
	l.dnsmasq(t, "--interface=srv3", "--bind-interfaces", "--except-interface=lo", "--dhcp-range=10.77.3.50,10.77.3.60,255.255.255.0")
	start := time.Now()
	summary, err := bringUp(t, &network{})
	if err != nil || !strings.HasPrefix(summary, port+" 10.77.3.") {
		t.Fatalf("%q, %v", summary, err)
	}
	if took := time.Since(start); took > networkDeadline/2 {
		t.Errorf("took %v", took)
	}
}

func TestALinkThatAppearsLaterIsConfigured(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0")
	links := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(links, t.Context().Done()); err != nil {
		t.Fatal(err)
	}
	go func() {
		for u := range links {
			if u.Attrs().Name == port && u.Attrs().Flags&net.FlagUp != 0 { // up has set the interface up
				l.plug(t, 1)
				return
			}
		}
	}()
	if summary, err := bringUp(t, &network{}); err != nil {
		t.Errorf("%q, %v", summary, err)
	}
}

func TestPrivateModeSendsARandomAddressAndNoName(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	log := l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0")
	if _, err := bringUp(t, &network{randomMAC: true}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	mac := link.Attrs().HardwareAddr
	if mac[0]&3 != 2 || mac.String() == "02:00:00:00:01:01" {
		t.Errorf("hardware address %s", mac)
	}
	seen, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(seen), mac.String()) {
		t.Errorf("the server saw %s, %v", seen, err)
	}
	for _, leak := range []string{"02:00:00:00:01:01", "client provides name", "vendor class"} {
		if strings.Contains(string(seen), leak) {
			t.Errorf("%q was sent:\n%s", leak, seen)
		}
	}
}

func TestNoAddressIsExplainedByInterface(t *testing.T) {
	for want, nics := range map[string]map[int]*nic{
		"eth0: no link":                {1: {name: "eth0"}},
		"no answer from a DHCP server": {1: {name: "eth0", carrier: true}},
	} {
		if err := noAddress(&monitor{nics: nics}); !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

func TestAnIPv6AddressIsEnough(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.run(t, "ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.dnsmasq(t, "--enable-ra", "--dhcp-range=fd77::,ra-only", "--dhcp-range=10.99.0.50,10.99.0.60,255.255.255.0") // no lease: 10.99.0.0/24 is not on this LAN
	n := &network{}
	summary, err := bringUp(t, n)
	if err != nil || !strings.HasPrefix(summary, port+" fd77::") || !strings.HasSuffix(summary, "/64 from IPv6 router advertisements") {
		t.Fatalf("%q, %v", summary, err)
	}
}

func TestAMissingNetworkCardIsReportedAndANewOneEndsTheWait(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	summary, err := bringUp(t, &network{nicTimeout: time.Millisecond})
	if !errors.Is(err, errNoNIC) || missingHardware(err) != waitNIC {
		t.Fatalf("%q, %v", summary, err)
	}
	for _, linked := range []bool{false, true} {
		came := make(chan error, 1)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		l := newLAN(t)
		if linked {
			l.cable(t, 1)
		}
		known, err := wiredInterfaces()
		if err != nil || len(known) != 0 && !linked {
			t.Fatal(known, err)
		}
		go func() { came <- waitWired(ctx, linked, known) }()
		if !linked {
			l.cable(t, 1)
		}
		if linked {
			if missing := missingHardware(noAddress(&monitor{nics: map[int]*nic{1: {name: "port1"}}})); missing != waitLink {
				t.Errorf("missing hardware %q", missing)
			}
			n := &network{}
			link, err := netlink.LinkByName("port1")
			if err != nil || n.setUp(link) != nil {
				t.Fatal(err)
			}
			l.plug(t, 1)
		}
		if err := <-came; err != nil {
			t.Errorf("linked %t: %v", linked, err)
		}
		if err := exec.Command("ip", "link", "del", "port1").Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// A new network card shows no link, because it is down until the next attempt.
func TestANewCardEndsTheWaitForALink(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	known, err := wiredInterfaces()
	if err != nil || len(known) == 0 {
		t.Fatal(known, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	came := make(chan error, 1)
	go func() { came <- waitWired(ctx, true, known) }()
	l.cable(t, 2)
	if err := <-came; err != nil {
		t.Error(err)
	}
}

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
		if !l.addr.IP.IsGlobalUnicast() || len(l.routes) > maxRoutes {
			t.Errorf("%+v", l)
		}
	})
}

func TestACablePluggedInAfterTheWaitIsConfigured(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	l.plug(t, 1)
	late := l.cable(t, 2)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0", "--dhcp-range=10.77.2.50,10.77.2.60,255.255.255.0")
	reported := make(chan string, 8)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	n := &network{resolv: filepath.Join(t.TempDir(), "resolv.conf"), report: func(format string, args ...any) { reported <- fmt.Sprintf(format, args...) }}
	if summary, err := n.up(ctx); err != nil || strings.Contains(summary, late) {
		t.Fatalf("%q, %v", summary, err)
	}
	l.plug(t, 2)
	select {
	case line := <-reported:
		if !strings.HasPrefix(line, "network: "+late+" 10.77.2.") {
			t.Errorf("reported %q", line)
		}
	case <-ctx.Done():
		t.Error("the second cable was not configured")
	}
}

func TestAnotherAttemptReplacesTheAddress(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0")
	var summary string
	for range 3 {
		var err error
		if summary, err = bringUp(t, &network{randomMAC: true}); err != nil {
			t.Fatal(err)
		}
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || !strings.Contains(summary, addrs[0].IPNet.String()) {
		t.Errorf("addresses %v, summary %q, %v", addrs, summary, err)
	}
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
