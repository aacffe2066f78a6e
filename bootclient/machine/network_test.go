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

// A lan is a network namespace with the far ends of the machine's cables.
type lan struct{ pid int }

func newLAN(t *testing.T) *lan {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	background(t, cmd)
	return &lan{cmd.Process.Pid}
}

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

// command is a command inside the LAN.
func (l *lan) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(l.pid), "-n", name}, args...)...)
}

func (l *lan) run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := l.command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// cable plugs portN of the machine into srvN of the LAN, which has 10.77.N.1/24
// and is down. Hardware addresses are fixed.
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

// plug brings the far end of a cable up.
func (l *lan) plug(t *testing.T, n int) {
	t.Helper()
	l.run(t, "ip", "link", "set", fmt.Sprintf("srv%d", n), "up")
}

// dnsmasq answers DHCP in the LAN and returns its log file.
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
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until it listens
		if said, err := os.ReadFile(log); err == nil && strings.Contains(string(said), "IP range") {
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
	n.say = t.Logf
	return n.up(ctx)
}

func TestDHCPGivesAddressRoutesAndServers(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0", "--dhcp-option=option:router,10.77.1.1",
		"--dhcp-option=option:dns-server,10.77.1.1,10.77.1.2")
	n := &network{}
	words, err := bringUp(t, n)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(words, port+" 10.77.1.") || !strings.HasSuffix(words, "/24 from DHCP server 10.77.1.1") {
		t.Errorf("words %q", words)
	}
	if got, err := os.ReadFile(n.resolv); err != nil || string(got) != "nameserver 10.77.1.1\nnameserver 10.77.1.2\n" {
		t.Errorf("resolv.conf %q, %v", got, err)
	}
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	if err != nil || len(routes) != 1 || !routes[0].Gw.Equal(net.IPv4(10, 77, 1, 1)) {
		t.Errorf("route to the world: %v, %v", routes, err)
	}
}

func TestClasslessRoutesReplaceTheRouter(t *testing.T) {
	if !netns.Alone(t) {
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

func TestTheFirstLeaseWinsAndADeadPortDoesNotHold(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1) // no link: the far end stays down
	l.cable(t, 2) // a link, and nobody answers
	l.plug(t, 2)
	port := l.cable(t, 3)
	l.plug(t, 3)
	l.dnsmasq(t, "--interface=srv3", "--bind-interfaces", "--except-interface=lo", "--dhcp-range=10.77.3.50,10.77.3.60,255.255.255.0")
	start := time.Now()
	words, err := bringUp(t, &network{})
	if err != nil || !strings.HasPrefix(words, port+" 10.77.3.") {
		t.Fatalf("%q, %v", words, err)
	}
	if took := time.Since(start); took > networkDeadline/2 {
		t.Errorf("took %v", took)
	}
}

func TestALinkThatComesLaterIsTaken(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0")
	time.AfterFunc(time.Second, func() { l.plug(t, 1) })
	if words, err := bringUp(t, &network{}); err != nil {
		t.Errorf("%q, %v", words, err)
	}
}

func TestPrivateModeSendsARandomAddressAndNoName(t *testing.T) {
	if !netns.Alone(t) {
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

func TestWhyThereIsNoNetwork(t *testing.T) {
	for want, ports := range map[string]map[int]*port{
		"eth0: no link":         {1: {name: "eth0"}},
		"no DHCP server and no": {1: {name: "eth0", carrier: true}},
	} {
		if err := noAddress(ports); !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

func TestAnIPv6AddressIsAnAddress(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.run(t, "ip", "addr", "add", "fd77::1/64", "dev", "srv1", "nodad")
	l.dnsmasq(t, "--enable-ra", "--dhcp-range=fd77::,ra-only", "--dhcp-range=10.99.0.50,10.99.0.60,255.255.255.0") // no lease: 10.99.0.0/24 is not here
	n := &network{}
	words, err := bringUp(t, n)
	if err != nil || !strings.HasPrefix(words, port+" fd77::") || !strings.HasSuffix(words, "/64 from IPv6 router advertisements") {
		t.Fatalf("%q, %v", words, err)
	}
}

func TestNoNetworkCardIsSaidAndOneThatComesIsTaken(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	words, err := bringUp(t, &network{cardPatience: time.Millisecond})
	if !errors.Is(err, errNoCard) || waitFor(err) != waitCard {
		t.Fatalf("%q, %v", words, err)
	}
	for _, linked := range []bool{false, true} {
		came := make(chan error, 1)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		l := newLAN(t)
		if linked {
			l.cable(t, 1)
		}
		known, err := wiredNow()
		if err != nil || len(known) != 0 && !linked {
			t.Fatal(known, err)
		}
		go func() { came <- waitWired(ctx, linked, known) }()
		if !linked {
			l.cable(t, 1)
		}
		if linked {
			if err := waitFor(noAddress(map[int]*port{1: {name: "port1"}})); err != waitLink {
				t.Errorf("waits for %q", err)
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

// A card that comes while the others have no link is down, and shows no link until the next
// attempt brings it up.
func TestASecondCardEndsTheWaitForALink(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	known, err := wiredNow()
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

func TestALeaseForNoHostIsRefused(t *testing.T) {
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
				t.Fatalf("the honest one: %v", err)
			}
			change(ack)
			if l, err := readLease(ack, 1); err == nil {
				t.Errorf("taken: %+v", l)
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

func TestACableThatIsPluggedInAfterTheWaitIsTaken(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	l.cable(t, 1)
	l.plug(t, 1)
	late := l.cable(t, 2)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0", "--dhcp-range=10.77.2.50,10.77.2.60,255.255.255.0")
	said := make(chan string, 8)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	n := &network{resolv: filepath.Join(t.TempDir(), "resolv.conf"), say: func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }}
	if words, err := n.up(ctx); err != nil || strings.Contains(words, late) {
		t.Fatalf("%q, %v", words, err)
	}
	l.plug(t, 2)
	select {
	case line := <-said:
		if !strings.HasPrefix(line, "network: "+late+" 10.77.2.") {
			t.Errorf("said %q", line)
		}
	case <-ctx.Done():
		t.Error("the second cable was never looked at")
	}
}

func TestAnotherAttemptLeavesOneAddress(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	l := newLAN(t)
	port := l.cable(t, 1)
	l.plug(t, 1)
	l.dnsmasq(t, "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0")
	var words string
	for range 3 {
		var err error
		if words, err = bringUp(t, &network{randomMAC: true}); err != nil {
			t.Fatal(err)
		}
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || !strings.Contains(words, addrs[0].IPNet.String()) {
		t.Errorf("%v beside %q, %v", addrs, words, err)
	}
}

func TestARouteWithHostBitsIsTakenWithoutThem(t *testing.T) {
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
