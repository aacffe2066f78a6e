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
	mdnsPort    = 4001 // the SRV record must hold one; only the TXT records are used
	txtPrefix   = "dnsaddr="
)

const (
	maxFound     = 4096 // delivered peers that are remembered, the newest ones
	foundBuffer  = 256  // peers that wait to be received
	maxPeerAddrs = 16   // addresses of one peer
	maxTXT       = 64   // records that are read of one answer
	mdnsPoll     = time.Second
)

// MDNSPeers returns a channel of the peers that mDNS finds, with only those addresses that are on a
// network of this machine's interfaces. Any host on the LAN can announce any number of invented
// peers, so the receiver must bound its work. A peer is delivered again with new addresses, at
// most 16 in all (the first answer may have been forged), and after 4096 other peers. The channel
// is never closed.
func (n *Node) MDNSPeers() <-chan peer.AddrInfo { return n.finder.out }

// A finder collects peers from mDNS answers, in bounded memory.
type finder struct {
	mu    sync.Mutex
	seen  map[peer.ID][]multiaddr.Multiaddr
	order []peer.ID          // the keys of seen, oldest first
	out   chan peer.AddrInfo // a peer that does not fit is delivered with a later answer
}

func newFinder() *finder {
	return &finder{seen: map[peer.ID][]multiaddr.Multiaddr{}, out: make(chan peer.AddrInfo, foundBuffer)}
}

// addTXT handles the TXT records of one answer.
func (f *finder) addTXT(self peer.ID, txt []string, near lan) {
	for _, info := range readTXT(txt, near) {
		if info.ID != self {
			f.add(info)
		}
	}
}

// add delivers the new addresses of info.
func (f *finder) add(info peer.AddrInfo) {
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
		if len(f.order) > maxFound { // forget the oldest
			delete(f.seen, f.order[0])
			f.order = slices.Delete(f.order, 0, 1)
		}
	default:
	}
}

// readTXT returns the peers of one answer with their addresses on the networks near.
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

// dialableOn reports whether a is /ip/tcp or /ip/udp/quic-v1 on one of the networks near. It refuses
// DNS names and relays.
func dialableOn(a multiaddr.Multiaddr, near lan) bool {
	ip, ok := IPOf(a)
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

// runMDNS announces and browses until the Node closes. It restarts whenever the interfaces or
// addresses change, as the sockets are bound to the old ones.
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

// startMDNS starts an announcer (if there is an address to announce) and a browser. The returned
// function stops both and waits.
func (n *Node) startMDNS(ifaces []net.Interface, txt []string) (stop func()) {
	versions := ipVersions(ifaces)
	if versions == 0 {
		n.log.Debug("mDNS: no interface with an address yet")
		return func() {}
	}
	var server *zeroconf.Server
	if len(txt) > 0 {
		name := strings.ToLower(rand.Text())
		var err error
		server, err = zeroconf.RegisterProxy(name, mdnsService, mdnsDomain, mdnsPort, name, firstIPs(txt), txt, ifaces)
		if err != nil {
			n.log.Warn("mDNS: cannot announce", "cause", err)
		}
	}
	ctx, cancel := context.WithCancel(n.ctx)
	var tasks sync.WaitGroup
	entries := make(chan *zeroconf.ServiceEntry, 64)
	done := make(chan struct{})
	tasks.Go(func() {
		defer close(done)
		if err := zeroconf.Browse(ctx, mdnsService, mdnsDomain, entries, zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(versions)); err != nil {
			n.log.Warn("mDNS: cannot browse", "cause", err)
		}
	})
	tasks.Go(func() { n.readEntries(entries, done) })
	return func() {
		cancel()
		if server != nil {
			server.Shutdown()
		}
		tasks.Wait()
	}
}

// readEntries reads entries until the browser ends. It must not end earlier, as the browser would block.
func (n *Node) readEntries(entries <-chan *zeroconf.ServiceEntry, done <-chan struct{}) {
	for {
		select {
		case e, ok := <-entries:
			if !ok {
				return
			}
			n.finder.addTXT(n.host.ID(), e.Text, localNetworks())
		case <-done:
			return
		}
	}
}

// announcement returns the TXT records of this node: every address that a machine on the LAN can
// dial. It looks at the interfaces itself, as the addresses of libp2p may be a minute old.
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

// firstIPs returns one IPv4 and one IPv6 address of an announcement, for the A and AAAA records
// that DNS-SD requires.
func firstIPs(txt []string) []string {
	var v4, v6 []string
	for _, info := range txt {
		a, err := multiaddr.NewMultiaddr(strings.TrimPrefix(info, txtPrefix))
		if err != nil {
			continue
		}
		if ip, ok := IPOf(a); ok && ip.Is4() && v4 == nil {
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

// interfaceNames lists the interfaces and their addresses, to detect changes.
func interfaceNames(ifaces []net.Interface) []string {
	var out []string
	for _, i := range ifaces {
		out = append(out, i.Name)
		addrs, _ := i.Addrs() // an interface that is gone has none
		for _, a := range addrs {
			out = append(out, a.String())
		}
	}
	return out
}

// ipVersions returns the IP versions that the interfaces have. The browser of zeroconf does not start
// if it is told to use a version that is switched off.
func ipVersions(ifaces []net.Interface) (out zeroconf.IPType) {
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if ip, _, err := net.ParseCIDR(a.String()); err != nil {
				continue
			} else if ip.To4() != nil {
				out |= zeroconf.IPv4
			} else {
				out |= zeroconf.IPv6
			}
		}
	}
	return out
}
