package bootclient

import (
	"context"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/manifest"
)

// Cached returns the release that Run boots without any source: the newest one of the channel that the
// cache holds whole, with metadata that are still valid or, in a mode that allows the last good
// release, expired (manifest.Verified.LastGood). It uses no network, writes nothing, and adds nothing
// to the report. An error means that a boot needs a source.
func Cached(ctx context.Context, cfg Config) (*manifest.Verified, error) {
	if cfg.Mode.Cache == "rw" {
		cfg.Mode.Cache = "ro"
	}
	cfg.Report = report.New(time.Now(), nil)
	cfg = cfg.complete()
	root, err := manifest.ParseRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	c, err := cache.Open(ctx, cfg.cacheOptions())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	o := resolve.Options{Policy: cfg.policy, Names: cfg.addresses(root).IPNS}
	return resolve.Cached(ctx, o, c, cfg.Mode.Stale == "last-good" || cfg.LastGood)
}
