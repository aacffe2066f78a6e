package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lan is one network segment: a bridge in a network namespace of its own. Hosts are
// namespaces on it, machines are QEMU on a tap.
type lan struct {
	t    *testing.T
	name string // of the bridge's namespace
	net  string // the first three bytes of its addresses
	dir  string
	next int
}

// lans counts the segments, for their names.
var lans atomic.Int64

// newLAN makes a segment with a DHCP server.
func newLAN(t *testing.T) *lan {
	t.Helper()
	l := newSegment(t, "10.55.0")
	l.dhcp()
	return l
}

// dhcp starts a DHCP server without DNS, whose leases last for an hour. options are those of dnsmasq.
func (l *lan) dhcp(options ...string) *daemon {
	l.t.Helper()
	return l.leases("1h", append(options, "--port=0")...)
}

// leases starts a DHCP server whose leases last for a time, and which is also a DNS server unless an option
// forbids it.
func (l *lan) leases(last string, options ...string) *daemon {
	l.t.Helper()
	d := l.dnsmasq(append(options, "--dhcp-range="+l.net+".100,"+l.net+".200,"+last)...)
	d.logs(l.t, "DHCP, IP range")
	return d
}

// dnsmasq starts dnsmasq on the segment. It reads no files of this host.
func (l *lan) dnsmasq(options ...string) *daemon {
	l.t.Helper()
	return l.start(l.name, "dnsmasq", append([]string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--interface=br0", "--bind-interfaces",
		"--user=root", "--pid-file=", "--dhcp-leasefile=" + filepath.Join(l.dir, "leases"), "--no-ping",
	}, options...)...)
}

// newSegment makes a segment without a DHCP server.
func newSegment(t *testing.T, net string) *lan {
	t.Helper()
	l := &lan{t: t, name: fmt.Sprintf("lan%d", lans.Add(1)), net: net, dir: t.TempDir(), next: 2}
	must(t, "ip", "netns", "add", l.name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", l.name).Run() })
	l.ip("link", "set", "lo", "up")
	l.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	l.ip("addr", "add", net+".1/24", "dev", "br0")
	l.ip("link", "set", "br0", "up")
	return l
}

// inside calls f on a thread in the segment's namespace. Files and sockets that f opens stay there.
func (l *lan) inside(f func() error) {
	l.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread is never unlocked, so it ends with the goroutine
		namespace, err := os.Open("/run/netns/" + l.name)
		if err == nil {
			defer namespace.Close()
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.t.Fatalf("in namespace %s: %v", l.name, err)
	}
}

func (l *lan) ip(args ...string) {
	l.t.Helper()
	must(l.t, "ip", append([]string{"-n", l.name}, args...)...)
}

// tap adds a port for a machine and returns the interface's name.
func (l *lan) tap() string {
	l.t.Helper()
	name := fmt.Sprintf("tap%d", l.next)
	l.next++
	l.ip("tuntap", "add", name, "mode", "tap")
	l.ip("link", "set", name, "master", "br0")
	l.ip("link", "set", name, "up")
	return name
}

// A host is a namespace on the LAN with one address.
type host struct {
	*lan
	ns, addr string
}

// host adds a host.
func (l *lan) host() host {
	l.t.Helper()
	ns := fmt.Sprintf("%s-h%d", l.name, l.next)
	must(l.t, "ip", "netns", "add", ns)
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	must(l.t, "ip", "-n", ns, "link", "set", "lo", "up")
	return l.attach(ns)
}

// attach connects a namespace to the LAN.
func (l *lan) attach(ns string) host {
	l.t.Helper()
	h := host{lan: l, ns: ns, addr: fmt.Sprintf("%s.%d", l.net, l.next)}
	port := fmt.Sprintf("veth%d", l.next)
	l.next++
	l.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.ip("link", "set", port, "master", "br0")
	l.ip("link", "set", port, "up")
	for _, args := range [][]string{
		{"addr", "add", h.addr + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", l.net + ".1"},
	} {
		must(l.t, "ip", append([]string{"-n", ns}, args...)...)
	}
	return h
}

// command returns a command that runs on the host.
func (h host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
}

// A daemon is a process that ends with the test. Its stderr is logged if the test fails.
type daemon struct {
	*exec.Cmd
	out    *bufio.Reader
	stderr *console
	stop   func() // waits for its end
}

// logs waits until a text is on stderr, and fails the test after 30 s.
func (d *daemon) logs(t *testing.T, text string) {
	t.Helper()
	d.logsAfter(t, 0, text, 30*time.Second)
}

// logsAfter waits until a text is on stderr after an offset, and fails the test after a time.
func (d *daemon) logsAfter(t *testing.T, from int, text string, limit time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	for {
		said, changed := d.stderr.since(from)
		if bytes.Contains(said, []byte(text)) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: no %q on stderr after %v: %s", d, text, limit, said)
		}
	}
}

func (l *lan) start(ns, name string, args ...string) *daemon {
	l.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	log := newConsole()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
	})
	l.t.Cleanup(func() {
		stop()
		if l.t.Failed() {
			l.t.Logf("stderr of %s in %s:\n%s", filepath.Base(name), ns, log.tail(1000))
		}
	})
	return &daemon{cmd, bufio.NewReader(stdout), log, stop}
}

// ready is the line that our daemons print when they serve.
type ready struct {
	Peer   string   `json:"peer"`
	HTTP   []string `json:"http"`
	Listen []string `json:"listen"`
	IPNS   string   `json:"ipns"`
	Head   string   `json:"head"`

	daemon *daemon
}

// stop ends the daemon with SIGTERM and waits for it.
func (r ready) stop() { r.daemon.stop() }

// serve starts one of our daemons on the host and waits for its ready line.
func (h host) serve(name string, args ...string) ready {
	h.t.Helper()
	return h.start(h.ns, name, args...).ready(h.t)
}

func (d *daemon) ready(t *testing.T) ready {
	t.Helper()
	line := make(chan []byte, 1)
	go func() {
		data, _ := d.out.ReadBytes('\n')
		line <- data
	}()
	select {
	case data := <-line:
		var r ready
		decode(t, data, &r)
		r.daemon = d
		return r
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: not ready after 2 minutes", d.Path)
		panic("unreachable")
	}
}

// publish serves the fixtures' release from the host.
func (h host) publish(args ...string) ready {
	h.t.Helper()
	return h.serve(fx.bin("phase-publish"), append([]string{
		"serve", "--store", fx.path("store"), "--repo", fx.path("repo"),
		"--online-key", fx.path("keys/online"), "--ipns-key", fx.path("keys/ipns"), "--identity", filepath.Join(h.t.TempDir(), "peer.key"),
		"--http", h.addr + ":8080", "--listen", "/ip4/" + h.addr + "/tcp/4001", "--reports", h.reports(),
	}, args...)...)
}

// reports is the database of boot reports of the host's publisher.
func (h host) reports() string { return filepath.Join(h.lan.dir, h.ns+".reports.db") }

// A reporter is a machine as phase-publish machines lists it.
type reporter struct {
	Key      string `json:"machine"`
	Accepted bool   `json:"accepted"`
	Age      string `json:"age_recipient"`
	Boots    int    `json:"boots"`
	Last     struct {
		ID      string `json:"boot_id"`
		Address string `json:"address"`
		Result  string `json:"result"`
		Step    string `json:"failed_step"`
		Error   string `json:"error"`
		Mode    string `json:"mode"`
		Release string `json:"release"`
	} `json:"last_boot"`
}

// machines lists the machines that have reported to the host's publisher.
func (h host) machines() []reporter {
	h.t.Helper()
	var list struct {
		Machines []reporter `json:"machines"`
	}
	decode(h.t, must(h.t, fx.bin("phase-publish"), "machines", "list", "--reports", h.reports(), "--json"), &list)
	return list.Machines
}

// tcp returns the ready line's first TCP multiaddr.
func (r ready) tcp(t *testing.T) string {
	t.Helper()
	for _, a := range r.Listen {
		if strings.Contains(a, "/tcp/") {
			return a
		}
	}
	t.Fatalf("no TCP address in %q", r.Listen)
	return ""
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
