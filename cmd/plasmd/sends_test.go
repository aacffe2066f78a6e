package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wasm builds a job.
func wasm(t *testing.T, path, pkg string) {
	t.Helper()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, pkg)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
}

// A capture has the packets of all interfaces of this network namespace, sent and received.
type capture struct {
	t  *testing.T
	fd int

	mu      sync.Mutex
	packets [][]byte
}

func newCapture(t *testing.T) *capture {
	t.Helper()
	c := &capture{t: t}
	var err error
	c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	check(t, unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	const all = unix.ETH_P_ALL << 8 // in network byte order
	check(t, unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all}))
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 2048)
		for ctx.Err() == nil {
			if n, _, err := unix.Recvfrom(c.fd, buf, 0); err == nil {
				c.mu.Lock()
				c.packets = append(c.packets, bytes.Clone(buf[:n]))
				c.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		stop()
		reading.Wait()
		unix.Close(c.fd)
	})
	return c
}

// take returns the packets since the last call. With a mark it waits for a packet with it.
func (c *capture) take(mark string) [][]byte {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		for _, p := range c.packets {
			if mark == "" || bytes.Contains(p, []byte(mark)) {
				mark = ""
			}
		}
		if mark == "" || time.Now().After(end) {
			all := c.packets
			c.packets = nil
			c.mu.Unlock()
			if mark != "" {
				c.t.Fatalf("the capture does not see the packet %q among %d", mark, len(all))
			}
			if stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || stats.Drops > 0 {
				c.t.Fatalf("the capture is not complete: %+v, %v", stats, err)
			}
			return all
		}
		c.mu.Unlock()
	}
}

// cable gives this namespace an interface with a neighbour that answers, and no packets of its own: no IPv6, and
// the neighbour's hardware address is known.
func cable(t *testing.T) {
	t.Helper()
	for _, name := range []string{"all", "default"} {
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0))
	}
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near0"}, PeerName: "far0"}))
	far, err := netlink.LinkByName("far0")
	check(t, err)
	near, err := netlink.LinkByName("near0")
	check(t, err)
	addr, err := netlink.ParseAddr("10.79.0.2/24")
	check(t, err)
	check(t, errors.Join(netlink.AddrAdd(near, addr), netlink.LinkSetUp(near), netlink.LinkSetUp(far)))
	check(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: near.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 79, 0, 1), HardwareAddr: far.Attrs().HardwareAddr}))
}

// imports returns a module that imports a function of the host and calls it.
func imports(source, name string) []byte {
	section := func(id byte, body ...byte) []byte { return append([]byte{id, byte(len(body))}, body...) }
	text := func(s string) []byte { return append([]byte{byte(len(s))}, s...) }
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = append(m, section(1, 1, 0x60, 0, 0)...)
	m = append(m, section(2, append(append(append([]byte{1}, text(source)...), text(name)...), 0, 0)...)...)
	m = append(m, section(3, 1, 0)...)
	m = append(m, section(7, append(append([]byte{1}, text("_start")...), 0, 1)...)...)
	return append(m, section(10, 1, 4, 0, 0x10, 0, 0x0b)...)
}

// TestAJobSendsNothing runs jobs that try to reach a neighbour of their machine and the machine itself, in all ways
// that a module has, while all packets are captured on every interface. The capture must see the packets that the
// test itself sends before and after.
func TestAJobSendsNothing(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	dir := t.TempDir()
	wasm(t, filepath.Join(dir, "sockets.wasm"), "../../plasm/testdata/sockets")
	module, err := os.ReadFile(filepath.Join(dir, "sockets.wasm"))
	check(t, err)
	cable(t)
	web, err := net.Listen("tcp", "127.0.0.1:80") // a job must not reach it
	check(t, err)
	defer web.Close()
	c := newCapture(t)
	say := func(mark string) {
		t.Helper()
		for _, to := range []string{"10.79.0.1:9", "127.0.0.1:9"} {
			conn, err := net.Dial("udp", to)
			check(t, err)
			_, err = conn.Write([]byte(mark + to))
			check(t, err)
			conn.Close()
		}
	}
	s := serveIn(t, dir)
	say("before ")
	c.take("before 10.79.0.1")
	for { // those to loopback come twice, and the kernel answers them that nobody listens
		time.Sleep(500 * time.Millisecond)
		if len(c.take("")) == 0 {
			break
		}
	}

	j, err := s.submitSpec(module, func(spec *plasm.Spec) {
		spec.Engine, spec.Args = plasm.EngineInterpreter, []string{"10.79.0.1:80", "127.0.0.1:80"} // a compiler with the race detector is slow
		spec.Limits.Timeout, spec.Grants.Clock, spec.Grants.Random = 10*time.Minute, true, true
	})
	check(t, err)
	if j := s.end(j.ID); j.Reason != plasm.ReasonExit || j.ExitCode != 0 {
		t.Errorf("ended as %+v\n%s", j, s.get(api.Jobs+"/"+j.ID+api.Output))
	}
	for _, call := range [][2]string{
		{"wasi_snapshot_preview1", "sock_open"},
		{"wasi_snapshot_preview1", "sock_connect"},
		{"wasi_snapshot_preview1", "sock_getaddrinfo"},
		{"wasi_unstable", "sock_send"},
		{"wasi:sockets/tcp@0.2.0", "connect"},
		{"wasi:http/outgoing-handler@0.2.0", "handle"},
		{"wasix_32v1", "sock_open"},
		{"env", "socket"},
	} {
		j, err := s.submit(imports(call[0], call[1]))
		check(t, err)
		if j := s.end(j.ID); j.Reason != plasm.ReasonImport || j.ExitCode != plasm.NoExitCode {
			t.Errorf("%s %s: ended as %+v", call[0], call[1], j)
		}
	}
	for _, p := range c.take("") {
		t.Errorf("a packet: %x", p)
	}
	say("after ")
	if len(c.take("after 10.79.0.1")) == 0 {
		t.Error("the capture has ended early")
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Error(fmt.Errorf("%w\n%s", err, &s.log))
	}
}
