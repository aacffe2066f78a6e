package machine

import (
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
	networkDeadline = 15 * time.Second       // for the first lease, link included
	networkGrace    = 500 * time.Millisecond // for the other interfaces after it
	maxServers      = 3                      // DNS servers in resolv.conf
)

// A network is what the boot process knows about its wired interfaces. IPv6
// addresses come from the kernel's own autoconfiguration.
type network struct {
	randomMAC bool
	resolv    string // path of resolv.conf
	say       func(format string, args ...any)

	mu      sync.Mutex
	servers []net.IP
}

// A port is one wired interface on its way up.
type port struct {
	name    string
	carrier bool
	err     error // of the last attempt
}

type leased struct {
	index int
	words string
	err   error
}

// up brings up lo and every wired interface, runs DHCP on each as soon as its
// link is there, and returns after the first lease and a short time for the
// others, or with the reason why there is none. Those that are later, because a
// cable is plugged in when the console asks for it, are taken until ctx ends.
func (n *network) up(ctx context.Context) (words string, err error) {
	if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
		return "", errors.Join(errors.New("lo: cannot be brought up"), err)
	}
	done := make(chan struct{})
	links := make(chan netlink.LinkUpdate, 64)
	// The reader of a closed subscription ends with an error that nobody needs.
	opts := netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: func(error) {}}
	if err := netlink.LinkSubscribeWithOptions(links, done, opts); err != nil {
		return "", fmt.Errorf("netlink: %w", err)
	}
	first := make(chan outcome, 1)
	go func() {
		defer close(done)
		n.watch(ctx, links, first)
	}()
	o := <-first
	return strings.Join(o.leases, "; "), o.err
}

// An outcome is what a boot may wait for: the first leases, or why there is none.
type outcome struct {
	leases []string
	err    error
}

// watch sends one outcome and goes on until ctx ends.
func (n *network) watch(ctx context.Context, links <-chan netlink.LinkUpdate, first chan<- outcome) {
	ports := map[int]*port{}
	results := make(chan leased, 64)
	deadline := time.After(networkDeadline)
	var got []string
	told := false
	tell := func(err error) {
		if !told {
			told = true
			first <- outcome{got, err}
		}
	}
	for pending := 0; ; {
		select {
		case u, ok := <-links:
			if !ok {
				tell(errors.New("netlink: the kernel closed the subscription"))
				return
			}
			if n.linkChanged(ctx, u, ports, results) {
				pending++
			}
		case r := <-results:
			pending--
			ports[r.index].err = r.err
			if r.err != nil || told {
				n.sayLease(ctx, ports[r.index].name, r)
			} else if got = append(got, r.words); len(got) == 1 {
				deadline = time.After(networkGrace)
			}
		case <-deadline:
			if len(got) == 0 {
				tell(noAddress(ports))
			}
			tell(nil)
		case <-ctx.Done():
			tell(ctx.Err())
			return
		}
		if len(got) > 0 && pending == 0 {
			tell(nil)
		}
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
		p = &port{name: a.Name}
		ports[a.Index] = p
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

// noAddress says why there is no network, by what was seen.
func noAddress(ports map[int]*port) error {
	if len(ports) == 0 {
		return errors.New("no wired interface: the image has no driver for this machine's network card")
	}
	var words []string
	for _, p := range ports {
		switch {
		case p.err != nil:
			words = append(words, fmt.Sprintf("%s: %v", p.name, p.err))
		case !p.carrier:
			words = append(words, p.name+": no link, is the cable plugged in?")
		default:
			words = append(words, p.name+": no DHCP server answered")
		}
	}
	slices.Sort(words)
	return fmt.Errorf("no address after %v: %s", networkDeadline, strings.Join(words, "; "))
}
