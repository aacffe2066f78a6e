// Package nat is what a p2p.Node behind a router needs beside its own parts, apart from it
// so that only programs that want it link it: a machine that boots dials out and is reached
// on its LAN. Behind learns from peers whether we can be reached, and if not keeps places
// at relays, through which others reach us and both ends then punch a hole. Relay gives
// such places, and tells others whether they can be reached; a node on the open Internet,
// such as a bootstrap node, can do that for the publishers of a private DHT.
//
// A relayed connection is short and thin (two minutes, 128 KiB each way): it is there to
// arrange a direct one. What is fetched over it is verified as ever.
package nat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"

	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	relays    = 2               // at which a node keeps a place
	again     = 2 * time.Minute // before a relay that refused is asked again
	dialBacks = 30              // for others, a minute
)

// Router asks the router to map the ports that a node listens on (UPnP, NAT-PMP), and
// lets others tell the node at which addresses they see it.
func Router() *p2p.Router { return &p2p.Router{Ports: basichost.NewNATManager, Seen: seen} }

func seen(bus event.Bus, n network.Network) (p2p.Seen, error) {
	m, err := observedaddrs.NewManager(bus, n)
	if err != nil {
		return nil, fmt.Errorf("observed addresses: %w", err)
	}
	m.Start(n)
	return m, nil
}

// Behind keeps a node reachable that may be behind a router. With known it is taken to
// be, and otherwise asks peers first, which takes one that answers and about 17 seconds.
func Behind(known bool) p2p.Service {
	return func(p p2p.Parts) (io.Closer, error) {
		if err := client.AddTransport(p.Host, p.Upgrader); err != nil {
			return nil, fmt.Errorf("relay client: %w", err)
		}
		found, err := autorelay.NewAutoRelay(p.Host,
			autorelay.WithPeerSource(source(p.Peers)), autorelay.WithNumRelays(relays),
			autorelay.WithMinCandidates(1), autorelay.WithBootDelay(0),
			autorelay.WithBackoff(again), autorelay.WithMinInterval(time.Second))
		if err != nil {
			return nil, fmt.Errorf("relays: %w", err)
		}
		found.Start()
		var opts []autonat.Option
		if known {
			opts = append(opts, autonat.WithReachability(network.ReachabilityPrivate))
		}
		told, err := tell(p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reachability: %w", err), found.Close())
		}
		probe, err := autonat.New(p.Host, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reachability: %w", err), told.Close(), found.Close())
		}
		return closers{probe, told, found}, nil
	}
}

// tell logs what was found out, and where others reach the node because of it.
func tell(p p2p.Parts) (io.Closer, error) {
	sub, err := p.Host.EventBus().Subscribe([]any{new(event.EvtLocalReachabilityChanged), new(event.EvtAutoRelayAddrsUpdated)})
	if err != nil {
		return nil, err
	}
	go func() {
		for e := range sub.Out() {
			switch e := e.(type) {
			case event.EvtLocalReachabilityChanged:
				p.Log.Info("reachability", "found", strings.ToLower(e.Reachability.String()))
			case event.EvtAutoRelayAddrsUpdated:
				p.Log.Info("places at relays", "addresses", e.RelayAddrs)
			}
		}
	}()
	return sub, nil
}

// source offers the peers of a node as relays.
func source(peers func() []peer.AddrInfo) autorelay.PeerSource {
	return func(_ context.Context, most int) <-chan peer.AddrInfo {
		list, known := []peer.AddrInfo{}, map[peer.ID]bool{}
		for _, p := range peers() {
			if !known[p.ID] && len(list) < most {
				list, known[p.ID] = append(list, p), true
			}
		}
		out := make(chan peer.AddrInfo, len(list))
		defer close(out)
		for _, p := range list {
			out <- p
		}
		return out
	}
}

// Relay serves those behind routers: places and circuits within the library's limits (128
// places, 8 of one IP), and dials back to tell them whether they can be reached.
func Relay(p p2p.Parts) (io.Closer, error) {
	dialer, err := p.Dialer()
	if err != nil {
		return nil, fmt.Errorf("reachability service: %w", err)
	}
	probe, err := autonat.New(p.Host, autonat.EnableService(dialer), autonat.WithReachability(network.ReachabilityPublic), autonat.WithThrottling(dialBacks, time.Minute))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reachability service: %w", err), dialer.Close())
	}
	r, err := relay.New(p.Host)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relay: %w", err), probe.Close(), dialer.Close())
	}
	return closers{r, probe, dialer}, nil
}

type closers []io.Closer

// Close closes all of them, in order.
func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
