package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// internet is an address prefix that AutoNAT regards as public.
const internet = "11.0.0"

// masquerade is the rules of a home router: source NAT for the network behind it, replies are
// accepted, and all other incoming packets are dropped.
const masquerade = `
table ip nat {
	chain postrouting { type nat hook postrouting priority srcnat
		oifname "eth0" masquerade
	}
}
table ip filter {
	chain forward { type filter hook forward priority filter; policy drop
		iifname "br0" accept
		ct state established,related accept
	}
	chain input { type filter hook input priority filter; policy accept
		iifname "eth0" ct state new drop
	}
}`

// behindNAT makes a segment with a router that is a host of l, and returns a host on it.
func (l *lan) behindNAT(net string) (inside, router host) {
	l.t.Helper()
	home := newSegment(l.t, net)
	router = l.attach(home.name)
	must(l.t, "ip", "netns", "exec", home.name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	rules := router.command("nft", "-f", "-")
	rules.Stdin = strings.NewReader(masquerade)
	if out, err := rules.CombinedOutput(); err != nil {
		l.t.Fatalf("nft: %v\n%s", err, out)
	}
	return home.host(), router
}

func (h host) curl(url string) []byte {
	h.t.Helper()
	out, err := h.command("curl", "-fsS", url).Output()
	if err != nil {
		h.t.Fatalf("curl %s: %v", url, err)
	}
	return out
}

// eventually polls until done returns true.
func eventually(t *testing.T, what string, d time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !done(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, d)
		}
	}
}

// protocols returns the protocols that a stock node supports now.
func (n ipfsNode) protocols() (list []string) {
	var id struct{ Protocols []string }
	decode(n.t, []byte(n.run("id")), &id)
	return id.Protocols
}

func (n ipfsNode) peers() string { return n.run("swarm", "peers") }

// The publisher is behind one router and a stock node behind another. Between them is a
// bootstrap node with a circuit relay. The publisher detects its NAT and reserves a slot at
// the relay. The node connects through the relay, both punch a hole (DCUtR), and the node pins
// a root filesystem over the direct connection.
func TestAPublisherBehindARouterIsReachedByAStockNodeBehindAnother(t *testing.T) {
	t.Parallel()
	world := newSegment(t, internet)
	middle := world.host()
	relay := middle.serve(fx.bin("phase-publish"), "bootstrap", "--root", fx.path("repo/root.json"), "--listen", "/ip4/"+middle.addr+"/tcp/4001", "--relay")
	home, router := world.behindNAT("192.168.7")
	published := home.publish("--mdns=false", "--nat", "auto", "--bootstrap", relay.tcp(t), "--metrics", home.addr+":9090")
	circuit := relay.tcp(t) + "/p2p-circuit/p2p/" + published.Peer

	var status struct {
		Live struct {
			Listen []string `json:"listen"`
		} `json:"live"`
	}
	eventually(t, "a reservation at the relay", 4*time.Minute, func() bool {
		decode(t, home.curl("http://"+home.addr+":9090/status"), &status)
		return slices.Contains(status.Live.Listen, circuit)
	})
	if err := exec.Command("ip", "netns", "exec", middle.ns, "curl", "-fsS", "-m", "1", "http://"+router.addr+":8080/").Run(); err == nil {
		t.Fatal("the router accepts new connections from outside: the test would prove nothing")
	}

	inside, _ := world.behindNAT("192.168.8")
	node := inside.ipfs("Swarm.RelayClient.Enabled", "Swarm.EnableHolePunching")
	node.run("swarm", "connect", relay.tcp(t))
	eventually(t, "the stock node ready to punch holes", 2*time.Minute, func() bool { return slices.Contains(node.protocols(), "/libp2p/dcutr") })
	node.run("swarm", "connect", circuit)
	if peers := node.peers(); !strings.Contains(peers, circuit) {
		t.Errorf("not connected through the relay; peers:\n%s", peers)
	}
	direct := "/ip4/" + router.addr + "/tcp/4001/p2p/" + published.Peer
	eventually(t, "a direct connection", 2*time.Minute, func() bool { return strings.Contains(node.peers(), direct) })

	signed := signedRelease(t)
	rootfs, ok := signed.Artifact("rootfs")
	if !ok {
		t.Fatal("no rootfs")
	}
	node.run("swarm", "peering", "add", circuit) // the peer for Bitswap requests
	node.run("pin", "add", "--progress=false", rootfs.CID.String())
}
