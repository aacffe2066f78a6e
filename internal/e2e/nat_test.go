package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// internet is a segment of addresses that AutoNAT takes for public ones.
const internet = "11.0.0"

// What a home router does: it hides a network behind its own address, lets answers in, and
// drops everything else without a word.
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

// behind is a host of a new segment whose router is a host of l.
func (l *lan) behind(net string) (inside, router host) {
	l.t.Helper()
	home := newSegment(l.t, net)
	router = l.in(home.name)
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

// eventually waits for what comes by itself.
func eventually(t *testing.T, what string, d time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !done(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in %v", what, d)
		}
	}
}

// protocols are those that a stock node speaks now.
func (n ipfsNode) protocols() (list []string) {
	var id struct{ Protocols []string }
	decode(n.t, []byte(n.run("id")), &id)
	return id.Protocols
}

func (n ipfsNode) peers() string { return n.run("swarm", "peers") }

// The publisher is behind one router, a stock node behind another, and between them is a
// bootstrap node that relays. The publisher finds out and keeps a place there; the node
// reaches it through the place, both punch a hole, and the release comes through that.
func TestAPublisherBehindARouterIsReachedByAStockNodeBehindAnother(t *testing.T) {
	t.Parallel()
	world := newSegment(t, internet)
	middle := world.host()
	relay := middle.serve(fx.bin("phase-publish"), "bootstrap", "--root", fx.path("repo/root.json"), "--listen", "/ip4/"+middle.addr+"/tcp/4001", "--relay")
	home, router := world.behind("192.168.7")
	published := home.publish("--mdns=false", "--nat", "auto", "--bootstrap", relay.tcp(t), "--metrics", home.addr+":9090")
	place := relay.tcp(t) + "/p2p-circuit/p2p/" + published.Peer

	var status struct {
		Live struct {
			Listen []string `json:"listen"`
		} `json:"live"`
	}
	eventually(t, "a place at the relay", 4*time.Minute, func() bool {
		decode(t, home.curl("http://"+home.addr+":9090/status"), &status)
		return slices.Contains(status.Live.Listen, place)
	})
	if err := exec.Command("ip", "netns", "exec", middle.ns, "curl", "-fsS", "-m", "1", "http://"+router.addr+":8080/").Run(); err == nil {
		t.Fatal("the router lets strangers in: nothing is shown here")
	}

	inside, _ := world.behind("192.168.8")
	node := inside.ipfs("Swarm.RelayClient.Enabled", "Swarm.EnableHolePunching")
	node.run("swarm", "connect", relay.tcp(t))
	eventually(t, "the stock node ready to punch holes", 2*time.Minute, func() bool { return slices.Contains(node.protocols(), "/libp2p/dcutr") })
	node.run("swarm", "connect", place)
	if peers := node.peers(); !strings.Contains(peers, place) {
		t.Errorf("not connected through the relay, but to\n%s", peers)
	}
	direct := "/ip4/" + router.addr + "/tcp/4001/p2p/" + published.Peer
	eventually(t, "a direct connection", 2*time.Minute, func() bool { return strings.Contains(node.peers(), direct) })

	var shown struct {
		Release manifest.Release `json:"release"`
	}
	decode(t, must(t, fx.bin("phase-sign"), "show", "--json", fx.path("release.json")), &shown)
	rootfs, ok := shown.Release.Artifact("rootfs")
	if !ok {
		t.Fatal("no rootfs")
	}
	node.run("swarm", "peering", "add", place) // whom it asks for blocks
	node.run("pin", "add", "--progress=false", rootfs.CID.String())
}
