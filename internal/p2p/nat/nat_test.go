package nat

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a node with services and also returns its host.
func start(t *testing.T, opts p2p.Options) (*p2p.Node, host.Host) {
	t.Helper()
	var inside host.Host
	var err error
	opts.Listen, err = p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	check(t, err)
	opts.Services = append(opts.Services, func(p p2p.Parts) (io.Closer, error) {
		inside = p.Host
		return p2p.Closers{}, nil
	})
	n, err := p2p.New(t.Context(), opts)
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	return n, inside
}

func TestANodeBehindARouterIsReachedThroughARelay(t *testing.T) {
	if !netns.Inside(t) { // it asks for a router
		return
	}
	relay, _ := start(t, p2p.Options{Services: []p2p.Service{Relay}})
	at := relay.Addrs()[0]
	known, err := p2p.ParsePeers([]string{at.String()})
	check(t, err)
	behind, _ := start(t, p2p.Options{Bootstrap: known, Router: Router(), Services: []p2p.Service{AutoRelay(true)}})
	_, other := start(t, p2p.Options{Router: Router(), Services: []p2p.Service{AutoRelay(true)}})
	circuit, err := multiaddr.NewMultiaddr(at.String() + "/p2p-circuit/p2p/" + behind.ID().String())
	check(t, err)
	through, err := p2p.ParsePeers([]string{circuit.String()})
	check(t, err)
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(t.Context(), "to arrange a direct one"), time.Minute)
	defer cancel()
	for other.Connect(ctx, through[0]) != nil { // until the slot is reserved
		check(t, ctx.Err())
		other.Network().(*swarm.Swarm).Backoff().Clear(behind.ID())
	}
	if got := other.Network().Connectedness(behind.ID()); got != network.Limited {
		t.Errorf("the connection is %s", got)
	}
}

// With a Router, TCP listens with SO_REUSEPORT, so that a taken port would not be an error by itself.
func TestATakenPortIsAnErrorBehindARouter(t *testing.T) {
	if !netns.Inside(t) { // it asks for a router
		return
	}
	first, _ := start(t, p2p.Options{Router: Router()})
	_, err := p2p.New(t.Context(), p2p.Options{Router: Router(), Listen: []multiaddr.Multiaddr{first.Addrs()[0].Decapsulate(multiaddr.StringCast("/p2p/" + first.ID().String()))}})
	if err == nil || !strings.Contains(err.Error(), "address in use") {
		t.Errorf("got %v", err)
	}
}

func TestARelayIsAlsoAnAutoNATService(t *testing.T) {
	_, inside := start(t, p2p.Options{Services: []p2p.Service{Relay}})
	for _, want := range []protocol.ID{autonat.AutoNATProto, proto.ProtoIDv2Hop} {
		if protocols := inside.Mux().Protocols(); !slices.Contains(protocols, want) {
			t.Errorf("%s is not among %q", want, protocols)
		}
	}
}
