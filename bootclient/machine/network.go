package machine

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	networkDeadline = 15 * time.Second       // for the first address, link included
	networkGrace    = 500 * time.Millisecond // for further addresses after the first one
	nicTimeout      = 3 * time.Second        // for a USB network card to appear
	maxServers      = 3                      // DNS servers in resolv.conf
)

// errNoNIC is the error for a machine without a wired network interface.
var errNoNIC = errors.New("no wired network card; plug one in (the boot then starts by itself), or use an image with its driver: flavour generic has the most drivers")

// errNoLink is the error for a machine where no wired interface has a link.
var errNoLink = errors.New("no link")

// A network configures the wired interfaces: IPv4 by DHCP; the kernel configures IPv6 itself.
type network struct {
	randomMAC bool
	resolv    string // path of resolv.conf
	report    func(format string, args ...any)
	// nicTimeout is how long to wait for the first interface to appear; 0 means the constant.
	nicTimeout time.Duration

	mu      sync.Mutex
	servers []net.IP
}

// A nic is one wired interface.
type nic struct {
	name    string // "" before its link was listed
	carrier bool
	err     error  // of the last attempt
	ipv6    string // address from autoconfiguration, with its prefix length
	counted bool   // ipv6 was counted as an address
}

// A dhcpResult is the end of a DHCP exchange on the interface with an index.
type dhcpResult struct {
	index   int
	summary string
	err     error
}

// up brings up lo and every wired interface and starts DHCP on each interface that has a link. It
// returns at most networkGrace after the first address, or the reason why there is no address
// after networkDeadline. Interfaces that get a link later are configured too, until ctx ends. If
// no wired interface appears within nicTimeout, the error is errNoNIC.
func (n *network) up(ctx context.Context) (summary string, err error) {
	if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
		return "", errors.Join(errors.New("lo: cannot be brought up"), err)
	}
	done := make(chan struct{})
	m := &monitor{
		links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64),
		nics: map[int]*nic{}, results: make(chan dhcpResult, 64), first: make(chan outcome, 1),
	}
	// The reader of a closed subscription ends with an error, which is expected.
	ignore := func(error) {}
	err = netlink.LinkSubscribeWithOptions(m.links, done, netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(m.addrs, done, netlink.AddrSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	}
	if err != nil {
		close(done)
		return "", fmt.Errorf("netlink: %w", err)
	}
	go func() {
		defer close(done)
		n.follow(ctx, m)
	}()
	o := <-m.first
	return strings.Join(o.addresses, "; "), o.err
}

// An outcome is the result of up: the first addresses, or why there is none.
type outcome struct {
	addresses []string
	err       error
}

// A monitor is the state of the goroutine that follows the kernel's links and addresses and the
// DHCP exchanges.
type monitor struct {
	links   chan netlink.LinkUpdate
	addrs   chan netlink.AddrUpdate
	results chan dhcpResult
	nics    map[int]*nic // by the index of the interface
	pending int          // DHCP exchanges
	got     []string     // addresses, for the report
	sent    bool         // the outcome was sent
	first   chan outcome
}

// send sends the outcome, once.
func (m *monitor) send(err error) {
	if !m.sent {
		m.sent = true
		m.first <- outcome{m.got, err}
	}
}

// errNetlink is the error for a netlink subscription that ended.
var errNetlink = errors.New("netlink: the kernel closed the subscription")

// follow handles events until ctx ends. It sends one outcome.
func (n *network) follow(ctx context.Context, m *monitor) {
	deadline, noNIC := time.After(networkDeadline), time.After(cmp.Or(n.nicTimeout, nicTimeout))
	for {
		before := len(m.got)
		select {
		case u, ok := <-m.links:
			if !ok {
				m.send(errNetlink)
				return
			}
			n.linkChanged(ctx, m, u)
		case u, ok := <-m.addrs:
			if !ok {
				m.send(errNetlink)
				return
			}
			m.addrChanged(u)
		case r := <-m.results:
			n.dhcpEnded(ctx, m, r)
		case <-noNIC:
			if !m.hasNIC() {
				m.send(errNoNIC)
			}
		case <-deadline:
			m.send(noAddress(m))
		case <-ctx.Done():
			m.send(ctx.Err())
			return
		}
		n.countIPv6(m)
		if before == 0 && len(m.got) > 0 {
			deadline = time.After(networkGrace)
		}
		if len(m.got) > 0 && m.pending == 0 {
			m.send(nil)
		}
	}
}

// hasNIC reports whether there is a wired interface.
func (m *monitor) hasNIC() bool {
	for _, card := range m.nics {
		if card.name != "" {
			return true
		}
	}
	return false
}

// dhcpEnded handles the end of a DHCP exchange.
func (n *network) dhcpEnded(ctx context.Context, m *monitor, r dhcpResult) {
	m.pending--
	card := m.nics[r.index]
	card.err = r.err
	if r.err != nil && card.ipv6 != "" {
		return // a network with IPv6 needs no DHCP
	}
	if r.err != nil || m.sent {
		n.reportLease(ctx, card.name, r)
		return
	}
	m.got = append(m.got, r.summary)
}

// addrChanged stores the first IPv6 address of an interface that reaches other networks: it is not
// link-local, and duplicate address detection has passed.
func (m *monitor) addrChanged(u netlink.AddrUpdate) {
	unusable := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	ip := u.LinkAddress.IP
	if !u.NewAddr || ip.To4() != nil || !ip.IsGlobalUnicast() || u.Scope != unix.RT_SCOPE_UNIVERSE || u.Flags&unusable != 0 {
		return
	}
	card := m.nics[u.LinkIndex]
	if card == nil { // its link was not listed yet
		card = &nic{}
		m.nics[u.LinkIndex] = card
	}
	if card.ipv6 == "" {
		card.ipv6 = u.LinkAddress.String()
	}
}

// countIPv6 adds new IPv6 addresses of wired interfaces to the outcome, or reports them after it.
func (n *network) countIPv6(m *monitor) {
	for _, card := range m.nics {
		if card.ipv6 == "" || card.counted || card.name == "" {
			continue
		}
		card.counted = true
		summary := fmt.Sprintf("%s %s from IPv6 router advertisements", card.name, card.ipv6)
		if m.sent {
			n.report("network: %s", summary)
			continue
		}
		m.got = append(m.got, summary)
	}
}

// reportLease reports a DHCP exchange that failed or that ended after the outcome.
func (n *network) reportLease(ctx context.Context, name string, r dhcpResult) {
	switch {
	case ctx.Err() != nil:
	case r.err != nil:
		n.report("network: %s: %v", name, r.err)
	default:
		n.report("network: %s", r.summary)
	}
}

// linkChanged handles a link that the kernel lists or that has changed: it brings up a new wired
// interface, and starts DHCP when the interface has a link.
func (n *network) linkChanged(ctx context.Context, m *monitor, u netlink.LinkUpdate) {
	a := u.Link.Attrs()
	if u.Header.Type == unix.RTM_DELLINK || !wired(u.Link) {
		return
	}
	card := m.nics[a.Index]
	if card == nil {
		card = &nic{}
		m.nics[a.Index] = card
	}
	if card.name == "" {
		card.name = a.Name
		if card.err = n.setUp(u.Link); card.err != nil {
			n.report("network: %s: %v", a.Name, card.err)
		}
	}
	if card.carrier || u.IfInfomsg.Flags&unix.IFF_LOWER_UP == 0 || u.IfInfomsg.Flags&unix.IFF_UP == 0 {
		return
	}
	card.carrier = true
	m.pending++
	go func() {
		summary, err := n.configure(ctx, u.Link)
		m.results <- dhcpResult{a.Index, summary, err}
	}()
}

// wired reports whether a link is a wired Ethernet interface: not lo, not wireless, not a software
// bridge or tunnel.
func wired(link netlink.Link) bool {
	a := link.Attrs()
	if a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 {
		return false
	}
	if _, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "phy80211")); err == nil {
		return false
	}
	return slices.Contains([]string{"device", "veth"}, link.Type())
}

// setUp brings up an interface, with a random hardware address if the mode asks for one.
func (n *network) setUp(link netlink.Link) error {
	if n.randomMAC {
		mac, err := newMAC()
		if err != nil {
			return err
		}
		// Some drivers refuse a new address while the interface is up.
		if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetHardwareAddr(link, mac)); err != nil {
			return fmt.Errorf("random hardware address: %w; the interface stays down", err)
		}
	}
	return netlink.LinkSetUp(link)
}

// newMAC returns a random unicast address with the locally-administered bit.
func newMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}

// configure requests a lease for one interface and applies it.
func (n *network) configure(ctx context.Context, link netlink.Link) (string, error) {
	name := link.Attrs().Name
	l, err := requestLease(ctx, link)
	if err != nil {
		return "", err
	}
	if err := l.apply(link); err != nil {
		return "", err
	}
	if err := n.addServers(l.servers); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s from DHCP server %s", name, l.addr, l.from), nil
}

// addServers appends DNS servers to resolv.conf, those of the first lease first.
func (n *network) addServers(servers []net.IP) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range servers {
		if len(n.servers) < maxServers && !slices.ContainsFunc(n.servers, s.Equal) {
			n.servers = append(n.servers, s)
		}
	}
	var b strings.Builder
	for _, s := range n.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return atomicfile.Write(n.resolv, 0o644, []byte(b.String()))
}

// noAddress returns why there is no address, by interface; nil if there is one. The error wraps
// errNoLink if no interface has a link.
func noAddress(m *monitor) error {
	if len(m.got) > 0 {
		return nil
	}
	var causes []string
	linked := false
	for _, card := range m.nics {
		linked = linked || card.carrier
		switch {
		case card.name == "": // not wired
		case card.err != nil:
			causes = append(causes, fmt.Sprintf("%s: %v", card.name, card.err))
		case !card.carrier:
			causes = append(causes, card.name+": no link; check the cable")
		default:
			causes = append(causes, card.name+": no answer from a DHCP server or an IPv6 router")
		}
	}
	slices.Sort(causes)
	if !linked {
		return refusal.New(errNoLink, "no address after %v: %s", networkDeadline, strings.Join(causes, "; "))
	}
	return fmt.Errorf("no address after %v: %s", networkDeadline, strings.Join(causes, "; "))
}
