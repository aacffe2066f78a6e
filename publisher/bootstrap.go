package publisher

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// BootstrapOptions are the options of a DHT node that has no release.
type BootstrapOptions struct {
	Root   []byte // root.json, for its DHT prefix and bootstrap peers; nil with Prefix
	Prefix string // overrides the prefix in Root
	DaemonOptions
}

// Bootstrap runs a DHT server until ctx ends and returns nil then.
func Bootstrap(ctx context.Context, opts BootstrapOptions) error {
	node, err := opts.node()
	if err != nil {
		return err
	}
	if opts.Identity != "" {
		var release func()
		if node.Identity, release, err = lockIdentity(opts.Identity); err != nil {
			return err
		}
		defer release()
	}
	metrics, err := listenPlain("--metrics", opts.Metrics)
	if err != nil {
		return err
	}
	defer listeners{metrics: metrics}.close()
	n, err := p2p.New(ctx, node)
	if err != nil {
		return err
	}
	defer n.Close()
	group, gctx := errgroup.WithContext(ctx)
	if metrics != nil {
		group.Go(func() error { return nodeControl(n).serve(gctx, metrics) })
	}
	group.Go(func() error {
		if opts.Ready == nil {
			return nil
		}
		return opts.Ready(Ready{Endpoints: n.Endpoints(nil), Metrics: p2p.Origins(metrics)})
	})
	group.Go(func() error { <-gctx.Done(); return nil })
	return errors.Join(group.Wait(), n.Close())
}

func (o BootstrapOptions) node() (p2p.Options, error) {
	var d manifest.Discovery
	if o.Root != nil {
		root, err := manifest.ParseRoot(o.Root)
		if err != nil {
			return p2p.Options{}, err
		}
		d = root.Discovery()
	}
	if o.Prefix != "" {
		d.DHTPrefix = o.Prefix
	}
	node, err := o.options(d)
	o.Limits.apply(&node)
	node.Log = o.Log
	return node, err
}

// nodeControl reports on a DHT node. It is healthy while it answers.
func nodeControl(n *p2p.Node) control {
	started, registry := time.Now().UTC(), newRegistry()
	live := func() Live {
		return Live{Peer: n.ID().String(), Started: started, Peers: n.Peers(), DHTPeers: n.DHTPeers()}
	}
	registry.MustRegister(liveGauges{live, netGauges})
	status := func(context.Context) (any, error) {
		l := live()
		return struct {
			Peer     string    `json:"peer"`
			Started  time.Time `json:"started"`
			Peers    int       `json:"peers"`
			DHTPeers int       `json:"dht_peers"`
		}{l.Peer, l.Started, l.Peers, l.DHTPeers}, nil
	}
	return control{registry, status, func(context.Context) error { return nil }}
}
