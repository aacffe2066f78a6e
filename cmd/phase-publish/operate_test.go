package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/p2p/nat"
	"github.com/phaseboot/phaseboot/manifest"
)

func newest(t *testing.T, dir string) manifest.Release {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "repo/root.json"))
	check(t, err)
	releases, err := manifest.Channels(t.Context(), manifest.DirFetcher(filepath.Join(dir, "repo")), root, time.Now())
	check(t, err)
	return releases[0]
}

func fetch(t *testing.T, d *daemon, r manifest.Release) error {
	rootfs, _ := r.Artifact(manifest.RoleRootfs)
	return cas.Copy(t.Context(), io.Discard, &gateway.Client{Base: d.ready.HTTP[0]}, rootfs.CID, rootfs.Length)
}

func TestSeveralServesShareAStoreBesideAnAdd(t *testing.T) {
	t.Parallel()
	dir, v1 := published(t)
	var daemons []*daemon
	for _, identity := range []string{"one.key", "two.key", "three.key"} {
		daemons = append(daemons, start(t, dir, append(append([]string{}, serveArgs...), "--dht", "off", "--identity", identity)...))
	}
	added := make(chan struct{})
	var machines sync.WaitGroup
	for _, d := range daemons {
		machines.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-added:
					if n > 0 {
						return
					}
				default:
				}
				if err := fetch(t, d, v1); err != nil {
					t.Errorf("while a release is added: %v", err)
					return
				}
			}
		})
	}
	out, err := publish(dir, "v2.json", "artifacts2")
	close(added)
	machines.Wait()
	if err != nil {
		t.Fatalf("add while three daemons serve: %v\n%s", err, out)
	}
	v2 := newest(t, dir)
	if v2.Version != "v2" {
		t.Fatalf("the newest is %s", v2.Version)
	}
	for _, d := range daemons {
		d.log.Wait(t, 2, `msg="pointer moved"`)
		check(t, fetch(t, d, v2))
		check(t, fetch(t, d, v1))
		d.stop(syscall.SIGTERM)
	}
}

// The test is systemd's side of a service of Type=notify.
func TestSystemdIsNotifiedOfReadyAliveAndStopping(t *testing.T) {
	dir, _ := published(t)
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	check(t, err)
	defer l.Close()
	hear := func() string {
		t.Helper()
		buf := make([]byte, 256)
		check(t, l.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := l.Read(buf)
		check(t, err)
		return string(buf[:n])
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "200000")
	for _, args := range [][]string{
		append(append([]string{}, serveArgs...), "--dht", "off"),
		{"bootstrap", "--root", "repo/root.json", "--listen", "/ip4/127.0.0.1/tcp/0"},
	} {
		d := start(t, dir, args...)
		for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
			if got := hear(); got != want {
				t.Errorf("%s said %q, want %q", args[0], got, want)
			}
		}
		check(t, d.cmd.Process.Signal(syscall.SIGTERM))
		said := hear()
		for said == "WATCHDOG=1" {
			said = hear()
		}
		if said != "STOPPING=1" {
			t.Errorf("%s said %q at the end", args[0], said)
		}
		d.wait()
	}
}

func TestTheUnitsPassSystemdAnalyze(t *testing.T) {
	for _, name := range []string{"phase-publish.service", "phase-bootstrap.service"} {
		text, err := os.ReadFile(filepath.Join("../../scripts", name))
		check(t, err)
		unit := filepath.Join(t.TempDir(), name)
		self, err := os.Executable()
		check(t, err)
		check(t, os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/local/bin/phase-publish"), []byte(self)), 0o644))
		for _, args := range [][]string{{"verify", "--man=no", unit}, {"security", "--offline=true", "--threshold=15", unit}} {
			out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
			if err != nil || args[0] == "verify" && len(out) > 0 {
				t.Errorf("%s: %s: %v (scripts/deps-check.sh --install brings systemd-analyze)\n%s", name, args[0], err, out)
			}
		}
	}
}

func TestTheFlagsOfTheUnitsStart(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	d := start(t, dir, append(append([]string{}, serveArgs...), "--dht", "off", "--log", "json", "--log-level", "debug",
		"--rate", "100Mbit", "--rate-per-peer", "1.5MiB/s", "--max-conns", "100", "--max-conns-per-ip", "1", "--metrics", "127.0.0.1:0")...)
	if text := string(get(t, d.ready.Metrics[0]+"/healthz")); text != "ok\n" {
		t.Errorf("healthz says %q", text)
	}
	first, err := net.Dial("tcp", strings.TrimPrefix(d.ready.HTTP[0], "http://"))
	check(t, err)
	defer first.Close()
	second, err := net.Dial("tcp", strings.TrimPrefix(d.ready.HTTP[0], "http://"))
	check(t, err)
	defer second.Close()
	check(t, second.SetDeadline(time.Now().Add(time.Minute)))
	resp, err := http.ReadResponse(bufio.NewReader(second), nil) // the answer comes before a request
	check(t, err)
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a second connection from one address: %s", resp.Status)
	}
	if text := string(get(t, d.ready.Metrics[0]+"/metrics")); !strings.Contains(text, `phasepublish_refused_total{why="per_asker"} 1`) {
		t.Error("the refusal is not counted")
	}
	first.Close() // the daemon gives a connection without a request 5 s when it stops
	d.stop(syscall.SIGTERM)
	if log := d.log.String(); !strings.HasPrefix(log, `{"time":`) || !strings.Contains(log, `"msg":"stopped","sent_bytes":`) {
		t.Errorf("the log is %s", log)
	}
}

func TestAPublisherBehindARouterUsesABootstrapNodeAsRelay(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // it sends to a router
		return
	}
	dir, _ := published(t)
	node := start(t, dir, "bootstrap", "--root", "repo/root.json", "--listen", "/ip4/127.0.0.1/tcp/0", "--relay", "--log-level", "debug")
	d := start(t, dir, append(append([]string{}, serveArgs...), "--nat", "behind", "--bootstrap", node.ready.Listen[0])...)
	place, err := p2p.ParsePeers([]string{node.ready.Listen[0] + "/p2p-circuit/p2p/" + d.ready.Peer})
	check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{Router: nat.Router(), Services: []p2p.Service{nat.AutoRelay(true)}})
	check(t, err)
	defer machine.Close()
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(t.Context(), "a test"), time.Minute)
	defer cancel()
	for reached := false; !reached; { // until it has the relay
		check(t, ctx.Err())
		_, err := machine.Gateway(ctx, place[0])
		reached = err == nil
	}
	d.stop(syscall.SIGTERM)
	node.stop(syscall.SIGTERM)
}
