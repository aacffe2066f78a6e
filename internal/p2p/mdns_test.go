package p2p

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/netns"
)

// Two processes in two network namespaces with one cable between them. The announcer is also on a
// second network, whose addresses the browser must not get.
const (
	roleEnv       = "PHASE_P2P_TEST_ROLE"
	cableA        = "pbcable0"
	cableB        = "pbcable1"
	announcerAddr = "10.77.0.1/24"
	announcerElse = "10.99.0.1/24"
	lookerAddr    = "10.77.0.2/24"
)

var cableBlock = []byte("served to a neighbour that nobody named")

func TestMDNSFindsAPeerOverACable(t *testing.T) {
	switch os.Getenv(roleEnv) {
	case "":
		run(t, "announcer", netns.Attributes())
	case "announcer":
		announce(t)
	case "looker":
		look(t)
	}
}

// self returns a command that runs the calling test in another role.
func self(t *testing.T, role string, attr *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = attr
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func run(t *testing.T, role string, attr *syscall.SysProcAttr) {
	t.Helper()
	if err := self(t, role, attr).Run(); err != nil {
		t.Fatalf("%s: %v", role, err)
	}
}

func announce(t *testing.T) {
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cableA}, PeerName: cableB}))
	check(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "pbelse0"}}))
	looker := self(t, "looker", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	check(t, looker.Start())
	far, err := netlink.LinkByName(cableB)
	check(t, err)
	check(t, netlink.LinkSetNsPid(far, looker.Process.Pid))
	up(t, "pbelse0", announcerElse)

	n := start(t, Options{Listen: addrs(t, "/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"), MDNS: true})
	check(t, n.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.ipld.raw")
		w.Write(cableBlock)
	})))
	n.announcement() // libp2p caches the current interfaces for a minute
	up(t, cableA, announcerAddr)
	check(t, looker.Wait())
}

func look(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	links := make(chan netlink.LinkUpdate)
	check(t, netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ListExisting: true}))
	for link := range links { // until the announcer has plugged in the cable
		if link.Attrs().Name == cableB {
			break
		}
	}
	go func() { // the subscription lasts as long as ctx
		for range links {
		}
	}()
	n := start(t, Options{MDNS: true}) // before the interface has an address
	up(t, cableB, lookerAddr)
	select {
	case info := <-n.MDNSPeers():
		if len(info.Addrs) != 2 {
			t.Errorf("got addresses %s, want TCP and QUIC on the one network that we share", info.Addrs)
		}
		near := lan{netip.MustParsePrefix(lookerAddr).Masked()}
		for _, a := range info.Addrs {
			if ip, ok := IPOf(a); !ok || !near.contains(ip) {
				t.Errorf("%s is not on our network", a)
			}
		}
		fetchFrom(t, ctx, n, info)
	case <-ctx.Done():
		t.Fatal("no peer found")
	}
}

func fetchFrom(t *testing.T, ctx context.Context, n *Node, info peer.AddrInfo) {
	t.Helper()
	gw, err := n.Gateway(ctx, info)
	check(t, err)
	_, err = cas.Get(ctx, gw, cas.Sum(0x55, cableBlock))
	check(t, err)
}

func up(t *testing.T, name, addr string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	check(t, err)
	a, err := netlink.ParseAddr(addr)
	check(t, err)
	check(t, netlink.AddrAdd(link, a))
	check(t, netlink.LinkSetUp(link))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const somePeer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

func TestTXTRecordsCountOnlyForLocalNetworks(t *testing.T) {
	near := lan{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("127.0.0.1/8")}
	for _, tt := range []struct {
		name, txt string
		want      bool
	}{
		{"TCP on our network", "dnsaddr=/ip4/10.1.2.3/tcp/4001/p2p/" + somePeer, true},
		{"QUIC on our network", "dnsaddr=/ip4/10.1.2.3/udp/4001/quic-v1/p2p/" + somePeer, true},
		{"IPv6 on our network", "dnsaddr=/ip6/fd00::1/tcp/4001/p2p/" + somePeer, true},
		{"loopback", "dnsaddr=/ip4/127.0.0.1/tcp/4001/p2p/" + somePeer, true},
		{"IPv4 in IPv6, elsewhere", "dnsaddr=/ip6/::ffff:192.0.2.1/tcp/4001/p2p/" + somePeer, false},
		{"elsewhere", "dnsaddr=/ip4/192.0.2.1/tcp/4001/p2p/" + somePeer, false},
		{"a DNS name", "dnsaddr=/dns4/example.org/tcp/4001/p2p/" + somePeer, false},
		{"a relay", "dnsaddr=/ip4/10.1.2.3/tcp/4001/p2p/" + somePeer + "/p2p-circuit/p2p/" + somePeer, false},
		{"a websocket", "dnsaddr=/ip4/10.1.2.3/tcp/4001/ws/p2p/" + somePeer, false},
		{"no peer ID", "dnsaddr=/ip4/10.1.2.3/tcp/4001", false},
		{"no address", "dnsaddr=/p2p/" + somePeer, false},
		{"no prefix", "/ip4/10.1.2.3/tcp/4001/p2p/" + somePeer, false},
		{"noise", "dnsaddr=\x00\xff", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := len(readTXT([]string{tt.txt}, near)) == 1; got != tt.want {
				t.Fatalf("taken: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAFloodOfTXTRecordsIsBounded(t *testing.T) {
	near := lan{netip.MustParsePrefix("10.0.0.0/8")}
	f := newFinder()
	txt := func(id peer.ID) []string { return []string{fmt.Sprintf("dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/%s", id)} }
	for range 10_000 { // as many peers
		f.addTXT("", txt(randomPeer(t)), near)
		if len(f.out) == foundBuffer {
			<-f.out
		}
	}
	honest := randomPeer(t)
	f.addTXT("", txt(honest), near)
	if len(f.seen) != maxFound || len(f.order) != maxFound {
		t.Fatalf("%d remembered, want %d", len(f.seen), maxFound)
	}
	var last peer.AddrInfo
	for len(f.out) > 0 {
		last = <-f.out
	}
	if last.ID != honest {
		t.Error("the peer after the flood was not delivered")
	}
	var many []string
	for i := range 10_000 { // addresses of one
		many = append(many, fmt.Sprintf("dnsaddr=/ip4/10.0.0.1/tcp/%d/p2p/%s", i+1, somePeer))
	}
	if got := readTXT(many, near); len(got) != 1 || len(got[0].Addrs) != maxPeerAddrs {
		t.Fatalf("got %d peers", len(got))
	}
}

// A forged answer with another peer's ID that arrives first must not hide that peer's addresses.
func TestNewAddressesOfAPeerAreDelivered(t *testing.T) {
	near := lan{netip.MustParsePrefix("10.0.0.0/8")}
	f := newFinder()
	txt := func(addr string) string { return "dnsaddr=" + addr + "/p2p/" + somePeer }
	f.addTXT("", []string{txt("/ip4/10.6.6.6/tcp/1")}, near)
	f.addTXT("", []string{txt("/ip4/10.6.6.6/tcp/1")}, near)
	f.addTXT("", []string{txt("/ip4/10.6.6.6/tcp/1"), txt("/ip4/10.0.0.1/tcp/4001")}, near)
	if len(f.out) != 2 {
		t.Fatalf("%d delivered, want 2", len(f.out))
	}
	<-f.out
	if got := <-f.out; len(got.Addrs) != 1 || got.Addrs[0].String() != "/ip4/10.0.0.1/tcp/4001" {
		t.Errorf("delivered %s", got)
	}
	for i := range 10_000 {
		f.addTXT("", []string{txt(fmt.Sprintf("/ip4/10.6.6.6/tcp/%d", i+1))}, near)
	}
	if n := len(f.out); n > maxPeerAddrs {
		t.Errorf("%d addresses of one peer", n)
	}
}

func FuzzReadTXT(f *testing.F) {
	near := lan{netip.MustParsePrefix("10.0.0.0/8")}
	f.Add("dnsaddr=/ip4/10.1.2.3/tcp/4001/p2p/" + somePeer)
	f.Add("dnsaddr=/ip6zone/x/ip6/fe80::1/tcp/4001/p2p/" + somePeer)
	f.Add("dnsaddr=")
	f.Fuzz(func(t *testing.T, txt string) {
		for _, info := range readTXT([]string{txt, txt}, near) {
			for _, a := range info.Addrs {
				if ip, ok := IPOf(a); !ok || !near.contains(ip) || info.ID.Validate() != nil {
					t.Fatalf("%s of %s was taken", a, info.ID)
				}
			}
		}
	})
}
