package p2p

import (
	"testing"

	"github.com/multiformats/go-multiaddr"
)

func TestParsePeersGroupsAddressesByPeer(t *testing.T) {
	got, err := ParsePeers([]string{
		"/ip4/192.0.2.1/tcp/4001/p2p/" + somePeer,
		"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/" + somePeer,
	})
	if err != nil || len(got) != 1 || len(got[0].Addrs) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "192.0.2.1:4001", "/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001/p2p/nonsense"} {
		if _, err := ParsePeers([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestUnspecifiedListenersBecomeInterfaceAddresses(t *testing.T) {
	in := []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/0.0.0.0/tcp/80/http")}
	for _, a := range concrete(in) {
		if ip, ok := IPOf(a); !ok || ip.IsUnspecified() || !isHTTP(a) {
			t.Errorf("got %s", a)
		}
	}
}
