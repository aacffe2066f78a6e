package publisher

import (
	"context"
	"log/slog"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// BootstrapOptions are those of a DHT node that holds no release.
type BootstrapOptions struct {
	Root     []byte // root.json, for its DHT prefix and bootstrap peers; nil with Prefix
	Prefix   string // overrides the one of Root
	Identity string // file of the peer's key, made when missing; "" is a new one each time
	Network
	Log   *slog.Logger
	Ready func(Ready) error
}

// Bootstrap runs a DHT server until ctx ends and returns nil then.
func Bootstrap(ctx context.Context, opts BootstrapOptions) error {
	var d manifest.Discovery
	if opts.Root != nil {
		root, err := manifest.ParseRoot(opts.Root)
		if err != nil {
			return err
		}
		d = root.Discovery()
	}
	if opts.Prefix != "" {
		d.DHTPrefix = opts.Prefix
	}
	node, err := opts.options(d)
	if err != nil {
		return err
	}
	if node.Identity, err = identityOf(opts); err != nil {
		return err
	}
	node.Log = opts.Log
	n, err := p2p.New(ctx, node)
	if err != nil {
		return err
	}
	defer n.Close()
	if opts.Ready != nil {
		if err := opts.Ready(Ready{Peer: n.ID().String(), HTTP: []string{}, Listen: texts(n.Addrs())}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return n.Close()
}

func identityOf(opts BootstrapOptions) (crypto.PrivKey, error) {
	if opts.Identity == "" {
		return nil, nil
	}
	return LoadIdentity(opts.Identity)
}
