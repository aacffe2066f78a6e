package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newLANWithDNS makes a segment with a DHCP server that offers itself as DNS server, and answers.
func newLANWithDNS(t *testing.T) *lan {
	t.Helper()
	l := newSegment(t, "10.55.0")
	l.leases("1h", "--address=/#/10.55.0.1")
	return l
}

// A sent packet is one that a machine has sent.
type sent struct {
	at   time.Time
	kind string // as in the table of docs/NETWORK.md; "" for any other packet
	what string // addresses and ports, for a message
	mac  string // source address
	data []byte // the first bytes of the Ethernet frame
}

// A wire has everything that a machine sends on its tap.
type wire struct {
	t     *testing.T
	fd    int
	known map[netip.AddrPort]string // kind of the packets to these servers; port 0 for all ports
	stop  chan struct{}

	mu      sync.Mutex
	packets []sent
}

// snap is how many bytes of a packet are kept.
const snap = 512

// capture records what is sent on a tap of the LAN until the end of the test.
func (l *lan) capture(tap string, known map[netip.AddrPort]string) *wire {
	l.t.Helper()
	w := &wire{t: l.t, known: known, stop: make(chan struct{})}
	l.inside(func() error { return w.open(tap) })
	go w.read()
	l.t.Cleanup(func() { close(w.stop) })
	return w
}

// open opens a socket for the packets that arrive on a tap.
func (w *wire) open(tap string) error {
	link, err := net.InterfaceByName(tap)
	if err != nil {
		return err
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) // an ordinary user has the usual buffer
	ignore := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	wake := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}) // to see the end
	const all = unix.ETH_P_ALL << 8                                                                       // in network byte order
	return errors.Join(ignore, wake, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
}

// read records packets until the end of the test.
func (w *wire) read() {
	defer unix.Close(w.fd)
	buf := make([]byte, snap)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return // the tap is gone
		}
		p := w.classify(slices.Clone(buf[:n]))
		w.mu.Lock()
		w.packets = append(w.packets, p)
		w.mu.Unlock()
	}
}

// all returns the packets so far. It fails the test if the kernel has dropped any.
func (w *wire) all() []sent {
	w.t.Helper()
	if stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || stats.Drops > 0 {
		w.t.Fatalf("the capture is not complete: %+v, %v", stats, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.packets)
}

// count returns how many packets of each kind there are.
func count(packets []sent) map[string]int {
	n := map[string]int{}
	for _, p := range packets {
		n[p.kind]++
	}
	return n
}

// classify finds the kind of an Ethernet frame.
func (w *wire) classify(frame []byte) sent {
	p := sent{at: time.Now(), data: frame, what: fmt.Sprintf("%x", frame[:min(len(frame), 64)])}
	if len(frame) < 14 {
		return p
	}
	p.mac = net.HardwareAddr(frame[6:12]).String()
	body := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		p.kind, p.what = "arp", "ARP"
	case unix.ETH_P_IP:
		if len(body) >= 20 && len(body) >= int(body[0]&15)*4 {
			to, _ := netip.AddrFromSlice(body[16:20])
			p.kind, p.what = w.classifyIP(body[9], to, body[int(body[0]&15)*4:])
		}
	case unix.ETH_P_IPV6:
		if len(body) >= 40 {
			to, _ := netip.AddrFromSlice(body[24:40])
			next, rest := body[6], body[40:]
			if next == 0 && len(rest) > 8 { // hop-by-hop options, of MLD
				next, rest = rest[0], rest[8*(int(rest[1])+1):]
			}
			p.kind, p.what = w.classifyIP(next, to, rest)
		}
	}
	return p
}

// classifyIP finds the kind of an IP packet. body begins after the IP header.
func (w *wire) classifyIP(protocol byte, to netip.Addr, body []byte) (kind, what string) {
	names := map[byte]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP"}
	switch {
	case protocol == unix.IPPROTO_IGMP:
		return "igmp", "IGMP"
	case protocol == unix.IPPROTO_ICMPV6 && len(body) > 0:
		return map[byte]string{131: "mld", 132: "mld", 133: "ndp", 135: "ndp", 136: "ndp", 143: "mld"}[body[0]], fmt.Sprintf("ICMPv6 type %d to %v", body[0], to)
	case names[protocol] == "" || len(body) < 4:
		return "", fmt.Sprintf("protocol %d to %v", protocol, to)
	}
	at := netip.AddrPortFrom(to, binary.BigEndian.Uint16(body[2:]))
	what = fmt.Sprintf("%s to %v", names[protocol], at)
	switch {
	case at.Port() == 53:
		return "dns", what
	case protocol == unix.IPPROTO_UDP && at.Port() == 67:
		return "dhcp4", what
	case protocol == unix.IPPROTO_UDP && at.Port() == 547:
		return "dhcp6", what
	case protocol == unix.IPPROTO_UDP && at.Port() == 5353:
		return "mdns", what
	case w.known[at] != "":
		return w.known[at], what
	}
	return w.known[netip.AddrPortFrom(to, 0)], what
}

// allowList reads the table of docs/NETWORK.md that says what a machine sends in a mode.
func allowList(t *testing.T, mode string) []string {
	t.Helper()
	text := string(readFile(t, "../../docs/NETWORK.md"))
	head := regexp.MustCompile(`(?m)^\| packets \| kind \|(.*)\|$`).FindStringSubmatch(text)
	if head == nil {
		t.Fatal("docs/NETWORK.md has no table of packets")
	}
	column := slices.IndexFunc(strings.Split(head[1], "|"), func(s string) bool { return strings.Trim(s, " `") == mode })
	if column < 0 {
		t.Fatalf("the table of packets has no mode %s", mode)
	}
	var allowed []string
	for _, row := range regexp.MustCompile("(?m)^\\| [^|]+ \\| `([a-z0-9]+)` \\|(.*)\\|$").FindAllStringSubmatch(text, -1) {
		if cells := strings.Split(row[2], "|"); len(cells) > column && strings.TrimSpace(cells[column]) == "yes" {
			allowed = append(allowed, row[1])
		}
	}
	if len(allowed) < 2 {
		t.Fatalf("mode %s may send %q", mode, allowed)
	}
	return allowed
}

// sentOnly fails the test if the machine has sent a packet that is not in the list.
func sentOnly(t *testing.T, packets []sent, allowed []string) {
	t.Helper()
	for _, p := range packets {
		if !slices.Contains(allowed, p.kind) {
			t.Errorf("it has sent %q (%s), which mode and table forbid: %x", p.kind, p.what, p.data[:min(len(p.data), 100)])
		}
	}
}
