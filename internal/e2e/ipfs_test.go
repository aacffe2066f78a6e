package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An ipfsNode is a stock IPFS node (Kubo) on a host. It has no bootstrap peers, routing or
// mDNS: it connects only to peers that the test names.
type ipfsNode struct {
	host
	repo string
}

// ipfs starts a stock node on the host. The named settings are set to true.
func (h host) ipfs(settings ...string) ipfsNode {
	h.t.Helper()
	n := ipfsNode{h, filepath.Join(h.t.TempDir(), "ipfs")}
	n.run("init", "--profile", "test,autoconf-off")
	n.run("config", "--json", "Addresses.Swarm", `["/ip4/`+h.addr+`/tcp/4001"]`)
	n.run("config", "--json", "AutoTLS.Enabled", "false")
	n.run("config", "Routing.Type", "none")
	for _, name := range settings {
		n.run("config", "--json", name, "true")
	}
	d := h.start(h.ns, "env", "IPFS_PATH="+n.repo, "IPFS_TELEMETRY=off", fx.bin("ipfs"), "daemon")
	ready := make(chan bool, 1)
	go func() {
		for {
			line, err := d.out.ReadString('\n')
			if err != nil || strings.Contains(line, "Daemon is ready") {
				ready <- err == nil
				return
			}
		}
	}()
	select {
	case ok := <-ready:
		if !ok {
			h.t.Fatal("ipfs daemon: ended early")
		}
	case <-time.After(3 * time.Minute):
		h.t.Fatal("ipfs daemon: not ready after 3 minutes")
	}
	return n
}

func (n ipfsNode) run(args ...string) string {
	n.t.Helper()
	return string(must(n.t, "ip", append([]string{"netns", "exec", n.ns, "env", "IPFS_PATH=" + n.repo, "IPFS_TELEMETRY=off", fx.bin("ipfs")}, args...)...))
}

// A stock node pins a release from the publisher. Then the publisher is disconnected, and a
// machine fetches the release from the stock node. It gets the IPNS record from a web server
// that has no blocks.
func TestAStockIPFSNodePinsAReleaseAndServesIt(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	source := l.host()
	published := source.publish("--mdns=false", "--dht", "off")
	node := l.host().ipfs()
	node.run("swarm", "connect", published.tcp(t))
	signed := signedRelease(t)
	node.run("pin", "add", "--progress=false", published.Head)
	for _, a := range signed.Artifacts {
		node.run("pin", "add", "--progress=false", a.CID.String())
	}
	must(t, "ip", "-n", source.ns, "link", "set", "eth0", "down") // disconnects the publisher

	for _, a := range signed.Artifacts {
		out := filepath.Join(t.TempDir(), "file")
		node.run("get", "--progress=false", "--output", out, a.CID.String())
		if !bytes.Equal(readFile(t, out), readFile(t, fx.path("artifacts", a.Role))) {
			t.Errorf("%s: differs from the signed file", a.Role)
		}
	}
	mirror := filepath.Join(l.dir, "mirror")
	export(t, "store", "repo", mirror)
	for _, blocks := range []string{"ipfs", "metadata"} {
		if err := os.RemoveAll(filepath.Join(mirror, blocks)); err != nil {
			t.Fatal(err)
		}
	}
	peer := "/ip4/" + node.addr + "/tcp/4001/p2p/" + strings.TrimSpace(node.run("config", "Identity.PeerID"))
	got := l.fetch("repo/root.json", l.host().nginx(mirror), "--peer", peer, "--timeout", "60s")
	got.wantSigned()
	var report struct {
		Sources []struct {
			Address string `json:"address"`
			Bytes   int64  `json:"bytes"`
		} `json:"sources"`
	}
	decode(t, readFile(t, filepath.Join(got.out, "report.json")), &report)
	var byBitswap int64
	for _, s := range report.Sources {
		if strings.HasSuffix(s.Address, "(bitswap)") {
			byBitswap += s.Bytes
		}
	}
	if byBitswap < signed.Artifacts[0].Length {
		t.Errorf("%d bytes came by Bitswap: %+v", byBitswap, report.Sources)
	}
}

// buildIPFS builds the stock node from module kubo.
func buildIPFS(f fixtures) error {
	cmd := exec.Command("go", "build", "-C", "kubo", "-trimpath", "-ldflags", "-s -w", "-o", f.bin("ipfs"), "github.com/ipfs/kubo/cmd/ipfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
