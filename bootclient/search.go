package bootclient

import (
	"context"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/manifest"
)

// Search finds the newest valid release of the channel at sources other than the cache, for at most
// Config.Timeout. It requests no block of an artifact, serves nothing and writes nothing. The saved
// state of the cache still limits how old the release may be. The errors are those of Run.
//
// A machine whose boot has failed searches with it until another attempt can succeed.
func Search(ctx context.Context, cfg Config) (*manifest.Verified, error) {
	cfg = cfg.complete()
	root, err := manifest.ParseRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	trust := cfg.addresses(root)
	sharing, disc, err := cfg.discover(ctx, trust, share.Options{})
	if err != nil {
		return nil, err
	}
	defer sharing.Close()
	defer disc.Close()
	state := &cache.Cache{Options: cache.Options{Dir: cfg.cacheDir(), ReadOnly: true, Log: cfg.Log, Report: cfg.Report}} // its blocks are not read
	none := func(context.Context, manifest.Release, peers.Pool) {}
	found, err := resolve.Find(ctx, resolve.Options{Policy: cfg.policy, Names: trust.IPNS, Early: none}, disc, state)
	return found.Verified, err
}
