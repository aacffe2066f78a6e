package peers

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// A person or root.json decides who gets the boot reports first: a neighbour that says that it is a publisher comes after them.
func TestNamedSourcesGetBootReportsBeforeHeardOnes(t *testing.T) {
	publisher := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(gateway.ReportsHeader, gateway.ReportsVersion)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer publisher.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	node, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTOff})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	set := newSet(gateway.NewHTTP(nil), node, &timing.Usual)
	add := func(kind, url string, heard bool) string {
		client := &gateway.Client{Base: url}
		_, _ = client.IPNS(t.Context(), "x") // so that the header is known
		s := NewSource(kind, url, nil)
		s.Heard = heard
		s.SetEndpoints([]*Endpoint{GatewayEndpoint(url, client)})
		set.mu.Lock()
		defer set.mu.Unlock()
		set.add(s)
		return url
	}
	neighbour := add(KindMDNS, publisher.URL+"/mdns", false)
	dht := add(kindDHT, publisher.URL+"/dht", false)
	dhcp := add(KindMirror, publisher.URL+"/dhcp", true)
	add(KindMDNS, plain.URL+"/mdns", false)
	add(KindMirror, plain.URL+"/dhcp", true)
	add(KindPeer, plain.URL+"/peer", false)
	mirror := add(KindMirror, plain.URL+"/mirror", false)
	named := add(KindMirror, publisher.URL+"/mirror", false)
	friend := add(KindPeer, publisher.URL+"/peer", false)
	const missing = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWBXoBVXnTPe6LUWGfFEUNQDNW6rJWpZxzdeLRwVMEqh3E"
	info, err := peer.AddrInfoFromString(missing)
	if err != nil {
		t.Fatal(err)
	}
	set.addPeer(KindPeer, *info)
	want := Receivers{Named: []string{named, friend, mirror, missing}, Heard: []string{neighbour, dht, dhcp}}
	if got := set.Receivers(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
