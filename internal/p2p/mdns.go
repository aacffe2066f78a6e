package p2p

import (
	"context"
	"crypto/rand"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// The service of libp2p's mDNS specification,
// https://github.com/libp2p/specs/blob/master/discovery/mdns.md.
const (
	mdnsService = "_p2p._udp"
	mdnsDomain  = "local"
	mdnsPort    = 4001 // the record must hold one; only the TXT records count
	txtPrefix   = "dnsaddr="
)

const (
	maxFound     = 4096 // peers that are remembered as delivered, the latest ones
	foundBuffer  = 256  // of them that wait to be taken
	maxPeerAddrs = 16   // addresses of one of them
	maxTXT       = 64   // records read of one answer
	mdnsPoll     = time.Second
)

// Found delivers peers that mDNS has seen, with only such addresses as lie on a network
// that this machine is directly on. Anybody may invent any number of them: who takes them
// has to bound what it does with them. A peer comes again with addresses that are new, at
// most 16 in all (who answered first may not have been that peer), and when 4096 others
// came after it. It is never closed.
func (n *Node) Found() <-chan peer.AddrInfo { return n.found.out }

// A finder turns what mDNS hears into a bounded list of peers.
type finder struct {
	mu    sync.Mutex
	seen  map[peer.ID][]multiaddr.Multiaddr
	order []peer.ID          // of those, the oldest first
	out   chan peer.AddrInfo // what finds no room comes with a later answer
}

func newFinder() *finder {
	return &finder{seen: map[peer.ID][]multiaddr.Multiaddr{}, out: make(chan peer.AddrInfo, foundBuffer)}
}

// hear takes the TXT records of one answer.
func (f *finder) hear(self peer.ID, txt []string, near lan) {
	for _, info := range readTXT(txt, near) {
		if info.ID != self {
			f.take(info)
		}
	}
}

// take delivers what is new in info.
func (f *finder) take(info peer.AddrInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, seen := f.seen[info.ID]
	fresh := slices.DeleteFunc(info.Addrs, func(a multiaddr.Multiaddr) bool { return slices.ContainsFunc(known, a.Equal) })
	fresh = fresh[:min(len(fresh), maxPeerAddrs-len(known))]
	if len(fresh) == 0 {
		return
	}
	select {
	case f.out <- peer.AddrInfo{ID: info.ID, Addrs: fresh}:
		f.seen[info.ID] = append(known, fresh...)
		if !seen {
			f.order = append(f.order, info.ID)
		}
		f.forget()
	default:
	}
}

// forget drops the oldest beyond maxFound.
func (f *finder) forget() {
	if len(f.order) > maxFound {
		delete(f.seen, f.order[0])
		f.order = append(f.order[:0], f.order[1:]...)
	}
}

// readTXT returns the peers of one answer with their addresses on near networks.
func readTXT(txt []string, near lan) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, t := range txt[:min(len(txt), maxTXT)] {
		text, ok := strings.CutPrefix(t, txtPrefix)
		if !ok {
			continue
		}
		info, err := peer.AddrInfoFromString(text)
		if err != nil || len(info.Addrs) != 1 || !dialableOn(info.Addrs[0], near) {
			continue
		}
		i := slices.IndexFunc(out, func(p peer.AddrInfo) bool { return p.ID == info.ID })
		if i < 0 {
			out = append(out, *info)
		} else if len(out[i].Addrs) < maxPeerAddrs {
			out[i].Addrs = append(out[i].Addrs, info.Addrs[0])
		}
	}
	return out
}

// dialableOn accepts /ip/tcp and /ip/udp/quic-v1 on a near network, nothing else: no
// DNS names, no relays.
func dialableOn(a multiaddr.Multiaddr, near lan) bool {
	ip, ok := ipOf(a)
	if !ok || !near.contains(ip) {
		return false
	}
	switch len(a) {
	case 2:
		return a[1].Protocol().Code == multiaddr.P_TCP
	case 3:
		return a[1].Protocol().Code == multiaddr.P_UDP && a[2].Protocol().Code == multiaddr.P_QUIC_V1
	}
	return false
}

// runMDNS announces and looks until the Node closes, and starts again whenever the
// interfaces or our addresses change: the sockets belong to the old ones.
func (n *Node) runMDNS() {
	tick := time.NewTicker(mdnsPoll)
	defer tick.Stop()
	var last []string
	stop := func() {}
	defer func() { stop() }()
	for {
		ifaces := multicastInterfaces()
		txt := n.announcement()
		now := append(interfaceNames(ifaces), txt...)
		if !slices.Equal(now, last) {
			stop()
			stop = n.startMDNS(ifaces, txt)
			last = now
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
	}
}

// startMDNS runs one announcer (when there is an address to announce) and one
// browser; the function that it returns stops both and waits.
func (n *Node) startMDNS(ifaces []net.Interface, txt []string) (stop func()) {
	v4, v6 := families(ifaces)
	if !v4 && !v6 {
		n.log.Debug("mDNS: no interface with an address yet")
		return func() {}
	}
	var server *zeroconf.Server
	if len(txt) > 0 {
		name := strings.ToLower(rand.Text())
		var err error
		server, err = zeroconf.RegisterProxy(name, mdnsService, mdnsDomain, mdnsPort, name, firstIPs(txt), txt, ifaces)
		if err != nil {
			n.log.Warn("mDNS: not announced", "cause", err)
		}
	}
	ctx, cancel := context.WithCancel(n.ctx)
	var tasks sync.WaitGroup
	entries := make(chan *zeroconf.ServiceEntry, 64)
	done := make(chan struct{})
	tasks.Go(func() {
		defer close(done)
		if err := zeroconf.Browse(ctx, mdnsService, mdnsDomain, entries, zeroconf.SelectIfaces(ifaces), traffic(v4, v6)); err != nil {
			n.log.Warn("mDNS: not looking", "cause", err)
		}
	})
	tasks.Go(func() { n.hearAll(entries, done) })
	return func() {
		cancel()
		if server != nil {
			server.Shutdown()
		}
		tasks.Wait()
	}
}

// hearAll reads entries until the browser is done; the browser must never wait for a
// reader that has left.
func (n *Node) hearAll(entries <-chan *zeroconf.ServiceEntry, done <-chan struct{}) {
	for {
		select {
		case e, ok := <-entries:
			if !ok {
				return
			}
			n.found.hear(n.host.ID(), e.Text, localNetworks())
		case <-done:
			return
		}
	}
}

// announcement returns our TXT records: every address that a neighbour can dial. What
// libp2p says of our interfaces may be a minute old.
func (n *Node) announcement() []string {
	var out []string
	for _, a := range concrete(n.host.Network().ListenAddresses()) {
		if !manet.IsIPLoopback(a) {
			out = append(out, txtPrefix+a.String()+"/p2p/"+n.host.ID().String())
		}
	}
	slices.Sort(out)
	return out
}

// firstIPs returns one IPv4 and one IPv6 address of an announcement, for the A and
// AAAA records that DNS-SD wants to see.
func firstIPs(txt []string) []string {
	var v4, v6 []string
	for _, info := range txt {
		a, err := multiaddr.NewMultiaddr(strings.TrimPrefix(info, txtPrefix))
		if err != nil {
			continue
		}
		if ip, ok := ipOf(a); ok && ip.Is4() && v4 == nil {
			v4 = []string{ip.String()}
		} else if ok && ip.Is6() && v6 == nil {
			v6 = []string{ip.WithZone("").String()}
		}
	}
	return append(v4, v6...)
}

func multicastInterfaces() []net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(i net.Interface) bool {
		return i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0
	})
}

// interfaceNames tells interfaces and their addresses apart from an earlier look.
func interfaceNames(ifaces []net.Interface) []string {
	var out []string
	for _, i := range ifaces {
		out = append(out, i.Name)
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			out = append(out, a.String())
		}
	}
	return out
}

// families reports which IP versions the interfaces have. zeroconf's browser refuses
// to start when one that it was told to use is switched off.
func families(ifaces []net.Interface) (v4, v6 bool) {
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			ip, _, err := net.ParseCIDR(a.String())
			if err != nil {
				continue
			}
			v4 = v4 || ip.To4() != nil
			v6 = v6 || ip.To4() == nil
		}
	}
	return v4, v6
}

func traffic(v4, v6 bool) zeroconf.ClientOption {
	switch {
	case !v6:
		return zeroconf.SelectIPTraffic(zeroconf.IPv4)
	case !v4:
		return zeroconf.SelectIPTraffic(zeroconf.IPv6)
	}
	return zeroconf.SelectIPTraffic(zeroconf.IPv4AndIPv6)
}
