package p2p

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ParseAddrs parses multiaddrs.
func ParseAddrs(texts []string) ([]multiaddr.Multiaddr, error) {
	out := make([]multiaddr.Multiaddr, 0, len(texts))
	for _, s := range texts {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %.200q: not a multiaddr; write it like /ip4/192.0.2.1/tcp/4001", s)
		}
		out = append(out, a)
	}
	return out, nil
}

// ParsePeers parses multiaddrs that end in /p2p/ID and groups them by peer, in the order in
// which the peers first appear.
func ParsePeers(texts []string) ([]peer.AddrInfo, error) {
	addrs, err := ParseAddrs(texts)
	if err != nil {
		return nil, err
	}
	var out []peer.AddrInfo
	at := map[peer.ID]int{}
	for i, a := range addrs {
		info, err := peer.AddrInfoFromP2pAddr(a)
		if err != nil {
			return nil, fmt.Errorf("peer %.200q: no peer ID; write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…", texts[i])
		}
		j, seen := at[info.ID]
		if !seen {
			at[info.ID] = len(out)
			out = append(out, *info)
			continue
		}
		out[j].Addrs = append(out[j].Addrs, info.Addrs...)
	}
	return out, nil
}

// PublicBootstrap returns the bootstrap peers of the public DHT.
func PublicBootstrap() []peer.AddrInfo { return dht.GetDefaultBootstrapPeerAddrInfos() }

// addrsFactory returns a function that adds to the addresses found by libp2p the announced ones,
// and those of the plain HTTP listeners on the current interfaces.
func addrsFactory(announce, listeners []multiaddr.Multiaddr) func([]multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return func(own []multiaddr.Multiaddr) []multiaddr.Multiaddr {
		return multiaddr.Unique(slices.Concat(own, announce, concrete(listeners)))
	}
}

// concrete replaces an unspecified IP by the IPs of the interfaces.
func concrete(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	if len(addrs) == 0 {
		return nil
	}
	ifaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil
	}
	out, err := manet.ResolveUnspecifiedAddresses(addrs, slices.DeleteFunc(ifaces, manet.IsIP6LinkLocal))
	if err != nil {
		return nil // no interface has an address
	}
	return out
}

// isHTTP reports whether a is the address of a plain HTTP listener: IP, TCP, /http.
func isHTTP(a multiaddr.Multiaddr) bool {
	_, ip := IPOf(a)
	return ip && len(a) == 3 && a[1].Protocol().Code == multiaddr.P_TCP && a[2].Protocol().Code == multiaddr.P_HTTP
}

// IPOf returns the IP at the start of a multiaddr, and false if there is none.
func IPOf(a multiaddr.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// A lan is the set of networks that the interfaces of this machine are on.
type lan []netip.Prefix

// localNetworks returns the networks of all interfaces, including loopback.
func localNetworks() lan {
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out lan
	for _, a := range ifaces {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (l lan) contains(ip netip.Addr) bool {
	return slices.ContainsFunc(l, func(p netip.Prefix) bool { return p.Contains(ip.WithZone("")) })
}
