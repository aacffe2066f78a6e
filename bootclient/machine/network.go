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
)

const (
	networkDeadline = 15 * time.Second       // for the first address, link included
	networkGrace    = 500 * time.Millisecond // for the other interfaces and addresses after it
	cardPatience    = 3 * time.Second        // for a network card behind USB to appear
	maxServers      = 3                      // DNS servers in resolv.conf
)

// errNoCard says that the machine has no wired network interface.
var errNoCard = errors.New("no wired network card; plug one in, and the boot starts by itself, or use an image with its driver: flavour generic has the most")

// errNoLink says that no wired interface has a link.
var errNoLink = errors.New("no link")

// A network is what the boot process knows about its wired interfaces. IPv6
// addresses come from the kernel's own autoconfiguration.
type network struct {
	randomMAC bool
	resolv    string // path of resolv.conf
	say       func(format string, args ...any)
	// cardPatience is how long the first interface may take to appear; 0: cardPatience.
	cardPatience time.Duration

	mu      sync.Mutex
	servers []net.IP
}

// A port is one wired interface on its way up.
type port struct {
	name    string
	carrier bool
	err     error  // of the last attempt
	ipv6    string // address that the kernel made, with its prefix length
	taken   bool   // ipv6 was counted
}

type leased struct {
	index int
	words string
	err   error
}

// up brings up lo and every wired interface, runs DHCP on each as soon as its
// link is there, and returns after the first address and a short time for the
// others, or with the reason why there is none. Those that are later, because a
// cable is plugged in when the console asks for it, are taken until ctx ends.
// Without any wired interface the error is errNoCard.
func (n *network) up(ctx context.Context) (words string, err error) {
	if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
		return "", errors.Join(errors.New("lo: cannot be brought up"), err)
	}
	done := make(chan struct{})
	w := &watched{
		links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64),
		ports: map[int]*port{}, results: make(chan leased, 64), first: make(chan outcome, 1),
	}
	// The reader of a closed subscription ends with an error that nobody needs.
	ignore := func(error) {}
	err = netlink.LinkSubscribeWithOptions(w.links, done, netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(w.addrs, done, netlink.AddrSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	}
	if err != nil {
		close(done)
		return "", fmt.Errorf("netlink: %w", err)
	}
	go func() {
		defer close(done)
		n.watch(ctx, w)
	}()
	o := <-w.first
	return strings.Join(o.leases, "; "), o.err
}

// An outcome is what a boot may wait for: the first addresses, or why there is none.
type outcome struct {
	leases []string
	err    error
}

// watched is what one goroutine hears of the kernel and of DHCP, and made of it.
type watched struct {
	links   chan netlink.LinkUpdate
	addrs   chan netlink.AddrUpdate
	results chan leased
	ports   map[int]*port // by the index of the interface
	pending int           // DHCP exchanges
	got     []string
	told    bool
	first   chan outcome
}

// tell sends the outcome, once.
func (w *watched) tell(err error) {
	if !w.told {
		w.told = true
		w.first <- outcome{w.got, err}
	}
}

// watch sends one outcome and goes on until ctx ends.
func (n *network) watch(ctx context.Context, w *watched) {
	deadline, noCard := time.After(networkDeadline), time.After(cmp.Or(n.cardPatience, cardPatience))
	for {
		before := len(w.got)
		select {
		case u, ok := <-w.links:
			if !ok {
				w.tell(errors.New("netlink: the kernel closed the subscription"))
				return
			}
			if n.linkChanged(ctx, u, w.ports, w.results) {
				w.pending++
			}
		case u, ok := <-w.addrs:
			if !ok {
				w.tell(errors.New("netlink: the kernel closed the subscription"))
				return
			}
			w.addrChanged(u)
		case r := <-w.results:
			n.leased(ctx, w, r)
		case <-noCard:
			if !w.wired() {
				w.tell(errNoCard)
			}
		case <-deadline:
			if len(w.got) == 0 {
				w.tell(noAddress(w.ports))
			}
			w.tell(nil)
		case <-ctx.Done():
			w.tell(ctx.Err())
			return
		}
		n.takeIPv6(w)
		if before == 0 && len(w.got) > 0 {
			deadline = time.After(networkGrace)
		}
		if len(w.got) > 0 && w.pending == 0 {
			w.tell(nil)
		}
	}
}

// wired reports whether there is a wired interface.
func (w *watched) wired() bool {
	for _, p := range w.ports {
		if p.name != "" {
			return true
		}
	}
	return false
}

// leased takes the end of a DHCP exchange.
func (n *network) leased(ctx context.Context, w *watched, r leased) {
	w.pending--
	p := w.ports[r.index]
	p.err = r.err
	if r.err != nil && p.ipv6 != "" {
		return // a network without DHCP that has IPv6 is no fault
	}
	if r.err != nil || w.told {
		n.sayLease(ctx, p.name, r)
		return
	}
	w.got = append(w.got, r.words)
}

// addrChanged keeps an IPv6 address by which others can be reached: not link-local, and
// found to be unique on the link.
func (w *watched) addrChanged(u netlink.AddrUpdate) {
	unusable := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	ip := u.LinkAddress.IP
	if !u.NewAddr || ip.To4() != nil || !ip.IsGlobalUnicast() || u.Scope != unix.RT_SCOPE_UNIVERSE || u.Flags&unusable != 0 {
		return
	}
	p := w.ports[u.LinkIndex]
	if p == nil { // its link is still to be listed
		p = &port{}
		w.ports[u.LinkIndex] = p
	}
	if p.ipv6 == "" {
		p.ipv6 = u.LinkAddress.String()
	}
}

// takeIPv6 counts the addresses that the kernel made of router advertisements.
func (n *network) takeIPv6(w *watched) {
	for _, p := range w.ports {
		if p.ipv6 == "" || p.taken || p.name == "" {
			continue
		}
		p.taken = true
		words := fmt.Sprintf("%s %s from IPv6 router advertisements", p.name, p.ipv6)
		if w.told {
			n.say("network: %s", words)
			continue
		}
		w.got = append(w.got, words)
	}
}

// sayLease tells at once of a port that failed or that came after the outcome.
func (n *network) sayLease(ctx context.Context, name string, r leased) {
	switch {
	case ctx.Err() != nil:
	case r.err != nil:
		n.say("network: %s: %v", name, r.err)
	default:
		n.say("network: %s", r.words)
	}
}

// linkChanged takes one link of the kernel's list or one change, and reports
// whether it started DHCP there.
func (n *network) linkChanged(ctx context.Context, u netlink.LinkUpdate, ports map[int]*port, results chan<- leased) bool {
	a := u.Link.Attrs()
	if u.Header.Type == unix.RTM_DELLINK || !wired(u.Link) {
		return false
	}
	p := ports[a.Index]
	if p == nil {
		p = &port{}
		ports[a.Index] = p
	}
	if p.name == "" {
		p.name = a.Name
		if p.err = n.setUp(u.Link); p.err != nil {
			n.say("network: %s: %v", a.Name, p.err)
		}
	}
	if p.carrier || u.IfInfomsg.Flags&unix.IFF_LOWER_UP == 0 || u.IfInfomsg.Flags&unix.IFF_UP == 0 {
		return false
	}
	p.carrier = true
	go func() {
		words, err := n.configure(ctx, u.Link)
		results <- leased{a.Index, words, err}
	}()
	return true
}

// wired reports whether a link is an Ethernet port: not lo, not wireless, not a
// bridge or tunnel made in software.
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

func (n *network) setUp(link netlink.Link) error {
	if n.randomMAC {
		mac, err := newMAC()
		if err != nil {
			return err
		}
		// A card may refuse a new address while it is up.
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

// configure gets a lease for one interface and applies it.
func (n *network) configure(ctx context.Context, link netlink.Link) (string, error) {
	name := link.Attrs().Name
	l, err := askDHCP(ctx, link)
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

// noAddress says why there is no network, by what was seen. It wraps errNoLink when no
// interface has a link.
func noAddress(ports map[int]*port) error {
	var words []string
	linked := false
	for _, p := range ports {
		linked = linked || p.carrier
		switch {
		case p.name == "": // not a wired one
		case p.err != nil:
			words = append(words, fmt.Sprintf("%s: %v", p.name, p.err))
		case !p.carrier:
			words = append(words, p.name+": no link, is the cable plugged in?")
		default:
			words = append(words, p.name+": no DHCP server and no IPv6 router answered")
		}
	}
	slices.Sort(words)
	if !linked {
		return fmt.Errorf("no address after %v: %w", networkDeadline, linkError(strings.Join(words, "; ")))
	}
	return fmt.Errorf("no address after %v: %s", networkDeadline, strings.Join(words, "; "))
}

// linkError is errNoLink in the words of its interfaces.
type linkError string

func (e linkError) Error() string        { return string(e) }
func (e linkError) Is(target error) bool { return target == errNoLink }
