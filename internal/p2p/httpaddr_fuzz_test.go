package p2p

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/multiformats/go-multiaddr"
)

// No address that a peer announces by identify leads to another IP than its own.
func FuzzHTTPAddrs(f *testing.F) {
	for _, seed := range []string{
		"/ip4/192.0.2.1/tcp/8080/http", "/ip6/2001:db8::1/tcp/80/http", "/ip4/198.51.100.7/tcp/80/http", "/dns4/example.org/tcp/80/http",
		"/ip4/192.0.2.1/udp/80/quic-v1", "/ip6zone/eth0/ip6/fe80::1/tcp/80/http", "/ip4/192.0.2.1/tcp/80/http/p2p-circuit", "/ip6/::ffff:192.0.2.1/tcp/80/http",
	} {
		a, err := multiaddr.NewMultiaddr(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Bytes())
	}
	remote := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("2001:db8::1"): true}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := multiaddr.NewMultiaddrBytes(data)
		if err != nil {
			return
		}
		for _, o := range originsAt([]multiaddr.Multiaddr{a}, remote) {
			u, err := url.Parse(o)
			if err != nil || u.Scheme != "http" || u.User != nil || u.Path != "" {
				t.Fatalf("%s gives %q: %v", a, o, err)
			}
			at, err := netip.ParseAddrPort(u.Host)
			if err != nil || !remote[at.Addr()] {
				t.Errorf("%s gives %q", a, o)
			}
		}
	})
}
