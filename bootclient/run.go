package bootclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

// Run finds the newest valid release of the channel, fetches its artifacts into the
// sink and verifies them. On an error the sink is aborted and nothing of it may be
// used. The report is finished either way.
//
// Errors wrap manifest.ErrUntrusted or manifest.ErrMalformed when what was found was
// refused, cas.ErrCorrupt when only wrong bytes were to be had, fs.ErrNotExist for an
// unknown channel, cas.ErrUnreachable when nobody answered in time.
func Run(ctx context.Context, cfg Config, sink Sink) (*manifest.Verified, error) {
	cfg = cfg.complete()
	r := cfg.Report
	r.setMode(cfg.Mode.Name)
	v, err := run(ctx, cfg, sink)
	if err != nil {
		sink.Abort()
		if ctx.Err() != nil && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		r.Finish(err)
		return nil, err
	}
	return v, nil
}

func run(ctx context.Context, cfg Config, sink Sink) (*manifest.Verified, error) {
	root, err := manifest.ParseRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	c, err := openCache(ctx, cfg)
	defer c.close()
	if err != nil {
		return nil, err
	}
	places := root.Discovery()
	if cfg.Cache != "" {
		places = merge(manifest.OpenStateReadOnly(cfg.trustDir()).NewestRoot(root).Discovery(), places)
	}
	disc, err := discover(ctx, cfg, places)
	if err != nil {
		return nil, err
	}
	defer disc.close()
	tell := func() {
		cfg.Report.setSources(allStats(disc, c))
		cfg.Report.setServed(disc.shared.served())
	}
	defer tell()

	won, err := resolveStep(ctx, cfg, disc, c, places.IPNS)
	if err != nil {
		return nil, err
	}
	disc.searchAlso(won.v.Release())
	disc.publish(won, c)
	step := cfg.Report.Begin("fetch")
	f, err := fetchAll(ctx, cfg, disc, c, won, sink)
	if err != nil {
		return nil, step.Abort(err)
	}
	step.Done("%s", f.words(allStats(disc, c)))
	disc.published()
	cfg.Report.While(func(so time.Duration) string { return fmt.Sprintf("cache: writing to the disk, %v so far", so) }, func() {
		c.sync(ctx)
		disc.shared.keepFor(ctx, cfg)
	})
	tell()
	cfg.Report.Finish(nil)
	if err := sink.Commit(won.v, cfg.Report); err != nil {
		return nil, err
	}
	if cfg.Stay != nil && disc.serving != nil {
		ready := disc.serving.ready()
		ready.Release = won.v.Release().Version
		if won.head.folder.Defined() {
			ready.Head = won.head.folder.String()
		}
		cfg.Report.setServing(ready)
		cfg.Stay(ready)
		<-ctx.Done()
	}
	return won.v, nil
}

// merge is where the newest remembered root says to look, and then where the machine's
// own says: a repository may have moved since its image was made.
func merge(newest, own manifest.Discovery) manifest.Discovery {
	newest.IPNS = union(newest.IPNS, own.IPNS)
	newest.HTTPS = union(newest.HTTPS, own.HTTPS)
	newest.Bootstrap = union(newest.Bootstrap, own.Bootstrap)
	if newest.DHTPrefix == "" {
		newest.DHTPrefix = own.DHTPrefix
	}
	return newest
}

func union(a, b []string) []string {
	list := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func resolveStep(ctx context.Context, cfg Config, disc *discovery, c *cache, names []string) (resolution, error) {
	r := cfg.Report
	step := r.Begin("resolve")
	won, err := resolve(ctx, cfg, disc, c, names)
	if err != nil {
		if won, err = lastGood(ctx, cfg, err); err != nil {
			return won, step.Abort(err)
		}
		step.Done("NOT UP TO DATE: the last good release, as mode %s allows", cfg.Mode.Name)
	}
	rel := won.v.Release()
	r.setRelease(ReleaseLine{rel.Channel, rel.Arch, rel.Version, rel.Number, won.v.TimestampVersion()})
	if !won.v.LastGood() {
		step.Done("%s/%s release %s from %s", rel.Channel, rel.Arch, rel.Version, won.words())
	}
	return won, nil
}

// lastGood is what a mode may fall back to when nothing valid is to be had, for whatever
// reason: the newest release that this machine verified before, from its own memory.
func lastGood(ctx context.Context, cfg Config, cause error) (resolution, error) {
	if cfg.Mode.Stale != "last-good" || cfg.Cache == "" || ctx.Err() != nil {
		return resolution{}, cause
	}
	v, err := manifest.LastGood(ctx, manifest.Policy{
		Root: cfg.Root, Channel: cfg.Channel, Arch: cfg.Arch,
		State: manifest.OpenStateReadOnly(cfg.trustDir()), Now: cfg.Now(), Floor: cfg.Floor,
	})
	if err != nil {
		return resolution{}, fmt.Errorf("%w; the last good release: %w", cause, err)
	}
	cfg.Report.Refuse("all sources", "their metadata", cause)
	return resolution{v: v}, nil
}

func allStats(disc *discovery, c *cache) []SourceStats {
	list := disc.sources.stats()
	if st, used := c.snapshot(); used {
		list = append(list, st)
	}
	if disc.folder.Blocks > 0 {
		list = append(list, disc.folder)
	}
	return list
}

// count is a number of things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func bytesOf(n int64) string { return humanize.IBytes(uint64(n)) }
