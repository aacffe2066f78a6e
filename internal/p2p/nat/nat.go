// Package nat makes a p2p.Node behind a router reachable, with AutoNAT, AutoRelay and hole
// punching of libp2p. It is apart from p2p so that only publishers link it: a machine that boots
// dials out and is reached on its LAN.
//
// AutoRelay asks peers whether the node is reachable. If it is not, the node reserves slots at
// relays; peers connect through a relay, and both ends then punch a hole. Relay is the other
// side: a node on the open Internet, such as a bootstrap node, can be the relay and the AutoNAT
// service for the publishers of a private DHT. Start at Router and AutoRelay.
//
// Limits: a relayed connection lasts two minutes and carries 128 KiB each way. It serves to
// arrange a direct one.
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
	numRelays    = 2               // at which a node reserves a slot
	relayBackoff = 2 * time.Minute // before a relay that refused is asked again
	dialBacks    = 30              // that a relay makes a minute for other nodes
)

// Router maps the ports that a node listens on (UPnP, NAT-PMP), and collects the addresses at which
// peers see the node.
func Router() *p2p.Router { return &p2p.Router{Ports: basichost.NewNATManager, Seen: observedAddrs} }

func observedAddrs(bus event.Bus, n network.Network) (p2p.Seen, error) {
	m, err := observedaddrs.NewManager(bus, n)
	if err != nil {
		return nil, fmt.Errorf("observed addresses: %w", err)
	}
	m.Start(n)
	return m, nil
}

// AutoRelay keeps a node reachable that may be behind a router. If private is true it reserves slots
// at relays at once; otherwise it asks peers first, which takes one that answers and about 17
// seconds.
func AutoRelay(private bool) p2p.Service {
	return func(p p2p.Parts) (io.Closer, error) {
		if err := client.AddTransport(p.Host, p.Upgrader); err != nil {
			return nil, fmt.Errorf("relay client: %w", err)
		}
		found, err := autorelay.NewAutoRelay(p.Host,
			autorelay.WithPeerSource(relayCandidates(p.Peers)), autorelay.WithNumRelays(numRelays),
			autorelay.WithMinCandidates(1), autorelay.WithBootDelay(0),
			autorelay.WithBackoff(relayBackoff), autorelay.WithMinInterval(time.Second))
		if err != nil {
			return nil, fmt.Errorf("relays: %w", err)
		}
		found.Start()
		var opts []autonat.Option
		if private {
			opts = append(opts, autonat.WithReachability(network.ReachabilityPrivate))
		}
		events, err := logEvents(p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reachability: %w", err), found.Close())
		}
		probe, err := autonat.New(p.Host, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reachability: %w", err), events.Close(), found.Close())
		}
		return p2p.Closers{probe, events, found}, nil
	}
}

// logEvents logs changes of reachability and of the relay addresses.
func logEvents(p p2p.Parts) (io.Closer, error) {
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
				p.Log.Info("relay addresses", "addresses", e.RelayAddrs)
			}
		}
	}()
	return sub, nil
}

// relayCandidates returns the peers of a node as candidates for relays.
func relayCandidates(peers func() []peer.AddrInfo) autorelay.PeerSource {
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

// Relay serves nodes behind routers: reservations and circuits within the limits of the library (128
// reservations, 8 of one IP), and dials back for AutoNAT.
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
	return p2p.Closers{r, probe, dialer}, nil
}
