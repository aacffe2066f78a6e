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
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"

	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	relays    = 2               // at which a node keeps a place
	again     = 2 * time.Minute // before a relay that refused is asked again
	dialBacks = 30              // for others, a minute
)

// Ports asks the router to map the ports that a node listens on (UPnP, NAT-PMP).
func Ports(n network.Network) basichost.NATManager { return basichost.NewNATManager(n) }

// Behind keeps a node reachable that may be behind a router. With known it is taken to
// be, and otherwise asks peers first, which takes some of them and a minute.
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
		probe, err := autonat.New(p.Host, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reachability: %w", err), found.Close())
		}
		return closers{probe, found}, nil
	}
}

// source offers the peers of a node as relays.
func source(peers func() []peer.AddrInfo) autorelay.PeerSource {
	return func(_ context.Context, most int) <-chan peer.AddrInfo {
		list := peers()
		list = list[:min(most, len(list))]
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
