package p2p

import (
	"net"
	"testing"

	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
)

func TestOneNetworkCannotFillTheRoutingTable(t *testing.T) {
	for _, tt := range []struct {
		name, ip, prefix string
		want             int // of 100 peers, ten at each distance
	}{
		{"a data centre", "203.0.113.7", testPrefix, maxPerGroup},
		{"a data centre in the public DHT", "203.0.113.7", PublicPrefix, 3},
		{"a rack", "192.168.7.7", testPrefix, 100},
		{"a big rack", "10.1.2.3", PublicPrefix, 100},
		{"one machine", "127.0.0.1", testPrefix, 100},
		{"a rack with IPv6", "fd00::7", testPrefix, 100},
		{"an IPv6 network", "2001:4860:4860::8888", testPrefix, maxPerGroup},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, taken := newDiversityFilter(nil, tt.prefix), 0
			for i := range 100 {
				g := peerdiversity.PeerGroupInfo{Id: randomPeer(t), Cpl: i % 10, IPGroupKey: peerdiversity.IPGroupKey(net.ParseIP(tt.ip))}
				if d.Allow(g) {
					d.Increment(g)
					taken++
				}
			}
			if taken != tt.want {
				t.Errorf("%d were taken, want %d", taken, tt.want)
			}
		})
	}
}
