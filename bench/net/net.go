package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHosts is the maximum of hosts on a segment.
const maxHosts = 250

// A segment is one Ethernet: a bridge in a network namespace of its own. Each host is a
// namespace with a veth port on the bridge.
type segment struct {
	name  string // of the bridge's namespace
	hosts []*host
}

// A host has one address. port is the bridge's end of its veth pair.
type host struct {
	lan            *segment
	ns, port, addr string
}

// segments counts the segments, for their names.
var segments int

func newSegment(ctx context.Context, hosts int) (_ *segment, err error) {
	segments++
	l := &segment{name: fmt.Sprintf("lan%d", segments)}
	defer func() {
		if err != nil {
			l.remove()
		}
	}()
	err = ipCommands(ctx,
		"netns add "+l.name,
		"-n "+l.name+" link set lo up",
		"-n "+l.name+" link add br0 type bridge mcast_snooping 0",
		"-n "+l.name+" addr add 10.66.0.1/16 dev br0",
		"-n "+l.name+" link set br0 up")
	for i := 0; i < hosts && err == nil; i++ {
		err = l.addHost(ctx)
	}
	return l, err
}

// addHost adds a host.
func (l *segment) addHost(ctx context.Context) error {
	n := len(l.hosts) + 2
	h := &host{lan: l, ns: fmt.Sprintf("%s-h%d", l.name, n), port: fmt.Sprintf("port%d", n), addr: fmt.Sprintf("10.66.0.%d", n)}
	l.hosts = append(l.hosts, h)
	return ipCommands(ctx,
		"netns add "+h.ns,
		"-n "+l.name+" link add "+h.port+" type veth peer name eth0 netns "+h.ns,
		"-n "+l.name+" link set "+h.port+" master br0",
		"-n "+l.name+" link set "+h.port+" up",
		"-n "+h.ns+" link set lo up",
		"-n "+h.ns+" addr add "+h.addr+"/16 dev eth0",
		"-n "+h.ns+" link set eth0 up",
		"-n "+h.ns+" route add default via 10.66.0.1")
}

// remove removes the segment. Its processes must have ended.
func (l *segment) remove() {
	ctx := context.Background()
	for _, h := range l.hosts {
		ipCommands(ctx, "netns del "+h.ns)
	}
	ipCommands(ctx, "netns del "+l.name)
}

func ipCommands(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := output(ctx, "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// disableOffload turns off segmentation offload on both ends of a host's veth pair, so that
// the counters show the frames as they would be on a wire.
func (h *host) disableOffload(ctx context.Context) error {
	for _, end := range [][2]string{{h.ns, "eth0"}, {h.lan.name, h.port}} {
		if _, err := output(ctx, "ip", "netns", "exec", end[0], "ethtool", "-K", end[1], "tso", "off", "gso", "off", "gro", "off"); err != nil {
			return err
		}
	}
	return nil
}

// limitRate limits the rate of a host's veth pair in both directions, each at the sending end.
func (h *host) limitRate(ctx context.Context, rate string) error {
	if err := h.disableOffload(ctx); err != nil {
		return err
	}
	for _, end := range [][2]string{{h.ns, "eth0"}, {h.lan.name, h.port}} {
		if _, err := output(ctx, "tc", "-n", end[0], "qdisc", "replace", "dev", end[1], "root", "tbf", "rate", rate, "burst", "32kb", "latency", "50ms"); err != nil {
			return err
		}
	}
	return nil
}

// disconnect takes a host off the segment.
func (h *host) disconnect(ctx context.Context) error {
	return ipCommands(ctx, "-n "+h.lan.name+" link set "+h.port+" down")
}

// traffic returns the bytes of Ethernet frames that a host has sent and received.
func (h *host) traffic() (sent, received int64, err error) {
	var text []byte
	err = inNamespace(h.lan.name, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	for line := range strings.Lines(string(text)) {
		name, counters, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != h.port {
			continue
		}
		var in, out int64
		fields := strings.Fields(counters)
		if len(fields) > 8 {
			in, err = strconv.ParseInt(fields[0], 10, 64)
			out, _ = strconv.ParseInt(fields[8], 10, 64)
		}
		return in, out, err
	}
	return 0, 0, fmt.Errorf("counters of %s: not found: %w", h.port, err)
}

// retransmitted returns the number of TCP segments that a host has sent again.
func (h *host) retransmitted() (n int64, err error) {
	var text []byte
	err = inNamespace(h.ns, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if i := slices.Index(names, "RetransSegs"); i >= 0 && i < len(fields) {
			return strconv.ParseInt(fields[i], 10, 64)
		}
		names = fields // the first line has the names, the second the values
	}
	return 0, fmt.Errorf("counters of %s: RetransSegs not found", h.ns)
}

// inNamespace calls do on a thread in a network namespace. Sockets that do makes stay in the
// namespace.
func inNamespace(ns string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		f, err := os.Open("/run/netns/" + ns)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("network namespace %s: %w", ns, err)
			return
		}
		done <- do()
	}()
	return <-done
}
