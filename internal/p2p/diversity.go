package p2p

import (
	"net/netip"
	"strings"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/host"
)

// How many peers of one network the routing table may hold. A network is an IPv4 /16, or the
// autonomous system of an IPv6 address. A private DHT is small, and its honest nodes may share
// a data centre.
const (
	maxPerGroup           = 16 // in the table
	maxPerGroupAtDistance = 4  // at one distance (common prefix length)
)

// A diversityFilter bounds the peers of one public network in a routing table. Private addresses
// are not counted, as a rack is one network.
type diversityFilter struct {
	peerdiversity.PeerIPGroupFilter
}

func newDiversityFilter(h host.Host, prefix string) diversityFilter {
	if prefix == PublicPrefix {
		return diversityFilter{dht.NewRTPeerDiversityFilter(h, amino.DefaultMaxPeersPerIPGroupPerCpl, amino.DefaultMaxPeersPerIPGroup)}
	}
	return diversityFilter{dht.NewRTPeerDiversityFilter(h, maxPerGroupAtDistance, maxPerGroup)}
}

// Allow implements peerdiversity.PeerIPGroupFilter.
func (d diversityFilter) Allow(g peerdiversity.PeerGroupInfo) bool {
	return isPrivateGroup(string(g.IPGroupKey)) || d.PeerIPGroupFilter.Allow(g)
}

// isPrivateGroup reports whether a group consists of private addresses. The group of an IPv4 address is the
// address of its network; a private IPv6 address has no autonomous system.
func isPrivateGroup(group string) bool {
	ip, err := netip.ParseAddr(group)
	if err != nil {
		return strings.HasPrefix(group, "unknown ASN")
	}
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
}
