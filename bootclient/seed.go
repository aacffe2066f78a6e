package bootclient

import (
	"context"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient/seed"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// Seed serves what an earlier Run left in Config.Cache until ctx ends, and then returns nil. It
// serves the newest release that verifies, with its metadata and IPNS record, every block of
// the cache, and the leaves of the artifacts in Config.Artifacts. It writes nothing and may
// run beside a Run that writes the cache; it serves a newer pointer within seconds.
//
// Errors are those of manifest.Verify, and wrap fs.ErrNotExist if the cache has no pointer. A
// mode that does not announce, and a missing cache, wrap fs.ErrInvalid.
func Seed(ctx context.Context, cfg Config) error {
	cfg.Share = true
	folder := cfg.Cache
	cfg = cfg.complete()
	cfg.Cache = folder // a mode without a cache forbids to write one
	switch {
	case !cfg.mayShare():
		return refusal.Invalid("mode %s: does not serve other machines; choose one that announces", cfg.Mode.Name)
	case cfg.Cache == "":
		return refusal.Invalid("no cache: name the folder that phase-boot fetch --cache filled")
	}
	root, err := manifest.ParseRoot(cfg.Root)
	if err != nil {
		return err
	}
	if err := cfg.cacheDir().Check(); err != nil {
		return fmt.Errorf("cache %s: %w", cfg.Cache, err)
	}
	node, _ := cfg.discoveryOptions(cfg.addresses(root)).NodeOptions()
	node.Listen = cfg.Listen
	return seed.Serve(ctx, seed.Options{
		Policy: cfg.policy, Names: func() []string { return cfg.addresses(root).IPNS }, Cache: cfg.cacheDir(), Artifacts: cfg.Artifacts,
		Node: node, HTTP: cfg.HTTP, Ready: cfg.Ready, Log: cfg.Log,
	})
}
