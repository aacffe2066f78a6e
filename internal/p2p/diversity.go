package p2p

import (
	"net/netip"
	"strings"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/host"
)

// How much of the routing table one network may hold: an IPv4 /16, or the autonomous
// system of an IPv6 address. A private DHT is small, and its honest nodes may share a
// data centre.
const (
	groupMost    = 16 // peers in the table
	groupPerHops = 4  // of them at one distance
)

// A diversity keeps the nodes of one public network from filling a routing table.
// Private addresses are not counted: a rack is one network.
type diversity struct {
	peerdiversity.PeerIPGroupFilter
}

func newDiversity(h host.Host, prefix string) diversity {
	if prefix == PublicPrefix {
		return diversity{dht.NewRTPeerDiversityFilter(h, amino.DefaultMaxPeersPerIPGroupPerCpl, amino.DefaultMaxPeersPerIPGroup)}
	}
	return diversity{dht.NewRTPeerDiversityFilter(h, groupPerHops, groupMost)}
}

// Allow implements peerdiversity.PeerIPGroupFilter.
func (d diversity) Allow(g peerdiversity.PeerGroupInfo) bool {
	return local(string(g.IPGroupKey)) || d.PeerIPGroupFilter.Allow(g)
}

// local reports whether a group is of private addresses: of IPv4 it is the network's own
// address, of IPv6 it has no autonomous system.
func local(group string) bool {
	ip, err := netip.ParseAddr(group)
	if err != nil {
		return strings.HasPrefix(group, "unknown ASN")
	}
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
}
