//go:build machine

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/s3test"
)

// Two replicas serve a release from an object store. A machine boots from both. When one is killed during the next boot,
// that goes on with the other.
func TestMachineBootsFromReplicasOfAnObjectStore(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	objects, first, second := l.host(), l.host(), l.host()
	if err := s3test.Setenv(); err != nil {
		t.Fatal(err)
	}
	server, err := s3test.Binary()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "objects", s3test.Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	l.start(objects.ns, server, "--port", objects.addr+":9000", "--access", s3test.AccessKey, "--secret", s3test.SecretKey, "--quiet", "posix", l.dir+"/objects")
	store := s3test.Address("http://"+objects.addr+":9000", "fleet")
	add := objects.command(fx.bin("phase-publish"), "add", "--store", store, "--new-store", "--repo", p.at("repo"), "--artifacts", fx.path("artifacts"),
		"--online-key", p.online, fx.path("release.json"))
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", add, err, out)
	}
	objects.serve(fx.bin("phase-publish"), "serve", "--store", store, "--repo", p.at("repo"), "--online-key", p.online, "--ipns-key", fx.path("keys/ipns"),
		"--identity", p.at("peer.key"), "--listen", "/ip4/"+objects.addr+"/tcp/4001", "--http", objects.addr+":8080", "--dht", "off", "--mdns=false")
	replica := func(h host) ready {
		return h.serve(fx.bin("phase-publish"), "serve", "--replica", "--store", store, "--listen", "/ip4/"+h.addr+"/tcp/4001", "--http", h.addr+":8080",
			"--metrics", h.addr+":9090", "--dht", "off", "--mdns=false")
	}
	killed := replica(first)
	replica(second)
	image := l.image("--default-mode", "internet", "--cmdline", fmt.Sprintf("phase.mirror=http://%s:8080 phase.mirror=http://%s:8080", first.addr, second.addr))

	m := l.boot(image)
	m.waitFor([]string{resolved, started, "Linux version", "phase.release=" + release}, refused)
	m.powerOff()
	for _, h := range []host{first, second} {
		if n := sentBytes(t, h); n < 1<<20 {
			t.Errorf("replica %s has sent %.0f bytes, want 1 MiB or more", h.addr, n)
		}
	}

	before := sentBytes(t, second)
	m = l.boot(image)
	m.waitFor([]string{resolved}, refused)
	if err := killed.daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	m.waitFor([]string{started, "Linux version", "phase.release=" + release}, refused)
	m.powerOff()
	if n := sentBytes(t, second) - before; n < 1<<20 {
		t.Errorf("the replica that was left has sent %.0f bytes to the second boot", n)
	}
}

// sentBytes is what the daemon of a host has sent, as its metrics say.
func sentBytes(t *testing.T, h host) (sum float64) {
	t.Helper()
	out, err := h.command("curl", "-fsS", "http://"+h.addr+":9090/metrics").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), "} "); strings.HasPrefix(name, "phasepublish_sent_bytes_total{") {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}
