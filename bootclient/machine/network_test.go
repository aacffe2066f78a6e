package machine

import (
	"net/http"
	"slices"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// The network prefers the port that reaches one of these.
func TestSourcesOfABootAreServers(t *testing.T) {
	c := bootclient.Config{
		Mode:      modes.Mode{Discovery: []string{"mdns"}},
		Mirrors:   []string{"http://192.0.2.1:8080/m", "https://user:pw@mirror.example", "http://[2001:db8::1]", "file:///srv"},
		Peers:     []string{"/ip4/192.0.2.2/tcp/4001/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"},
		Bootstrap: []string{"/ip4/192.0.2.3/udp/4001/quic-v1/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj", "no address"},
	}
	want := []string{"192.0.2.1:8080", "mirror.example:443", "[2001:db8::1]:80", "192.0.2.2:4001"}
	if got := sourceAddresses(c, ""); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := sourceAddresses(c, "socks5://192.0.2.9"); !slices.Equal(got, []string{"192.0.2.9:1080"}) {
		t.Errorf("with a proxy: %q", got)
	}
	c.Mode.Proxy = "http://192.0.2.8:3128"
	if got := sourceAddresses(c, "socks5://192.0.2.9"); !slices.Equal(got, []string{"192.0.2.8:3128"}) {
		t.Errorf("with the proxy of a mode: %q", got)
	}
}

func TestTheProxyOfTheCommandLineIsForMirrors(t *testing.T) {
	var c bootclient.Config
	useProxy(&c, bootargs.Parse("phase.proxy=socks5://192.0.2.9:1080").Proxy)
	req, err := http.NewRequest(http.MethodGet, "http://mirror.example/ipfs", nil)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := c.Proxy(req); err != nil || at.String() != "socks5://192.0.2.9:1080" {
		t.Errorf("%v, %v", at, err)
	}
	c = bootclient.Config{}
	if useProxy(&c, ""); c.Proxy != nil {
		t.Error("a proxy without phase.proxy=")
	}
}
