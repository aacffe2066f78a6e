package bootclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// Run finds the newest valid release of the channel, fetches its artifacts into the sink and
// verifies them. After an error the sink is aborted and nothing of it may be used. The report
// is finished in both cases.
//
// Errors wrap manifest.ErrUntrusted or manifest.ErrMalformed if all releases were refused,
// cas.ErrCorrupt if sources sent only wrong bytes, fs.ErrNotExist for an unknown channel,
// cas.ErrUnreachable if no source answered in time.
func Run(ctx context.Context, cfg Config, sink Sink) (*manifest.Verified, error) {
	cfg = cfg.complete()
	r := cfg.Report
	r.SetMode(cfg.Mode.Name)
	v, err := runSteps(ctx, cfg, sink)
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

func runSteps(ctx context.Context, cfg Config, sink Sink) (*manifest.Verified, error) {
	root, err := manifest.ParseRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	c, err := cache.Open(ctx, cfg.cacheOptions())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	trust := cfg.addresses(root)
	sharing, disc, err := cfg.discover(ctx, trust, share.Options{Serve: cfg.mayShare(), Listen: cfg.Listen, HTTP: cfg.HTTP, Ready: cfg.Ready})
	if err != nil {
		return nil, err
	}
	defer sharing.Close()
	defer disc.Close()
	var got fetch.Result
	stats := func() []report.SourceStats {
		list := present(disc, c)
		if got.Earlier.Blocks > 0 {
			list = append(list, got.Earlier)
		}
		return list
	}
	record := func() {
		cfg.Report.SetSources(stats())
		cfg.Report.SetServed(sharing.Blocks.Served())
		cfg.Receivers(disc.Sources.Receivers())
	}
	defer record()

	early := fetch.NewEarly(disc, sink)
	won, err := resolveStep(ctx, cfg, disc, c, resolve.Options{
		Policy: cfg.policy, Names: trust.IPNS, SaveState: cfg.Mode.Cache == "rw", Early: early.Fetch,
	})
	if err != nil {
		return nil, err
	}
	release := won.Verified.Release()
	disc.SearchArtifacts(release)
	sharing.Blocks.SetPointer(won.Pointer, won.Memory)
	if won.Directory != nil && (sharing.Blocks != nil || c.Writable()) {
		sharing.Publish(release, won.Directory.Unread(), peers.Pool{Memory: won.Memory, Cache: c, Sources: disc.Sources, Prefer: won.Pointer.From})
	}
	cfg.Report.FollowSources(func() []report.SourceStats { return present(disc, c) })
	step := cfg.Report.Begin("fetch")
	got, err = fetch.All(ctx, fetch.Options{
		Verified: won.Verified, From: won.Pointer.From, Memory: won.Memory, Unread: won.Directory.Unread(), MakeRoom: won.Directory != nil,
		Fallback: cfg.keptRoots(won.Verified), Early: early, Shared: sharing.Blocks, Progress: cfg.Progress,
	}, disc, c, sink)
	if err != nil {
		return nil, step.Abort(err)
	}
	step.Done("%s", got.Summary(stats()))
	sharing.AwaitMetadata()
	cfg.Report.While(func(so time.Duration) string { return fmt.Sprintf("cache: writing to the disk, %v so far", so) }, func() {
		c.Sync(ctx)
		sharing.Blocks.SaveTo(ctx, cache.Dir(cfg.Keep), cfg.Log, cfg.Report)
	})
	cfg.Stored(c.Writable() && resolve.Holds(ctx, release, c) == nil)
	record()
	cfg.Report.Finish(nil)
	if err := sink.Commit(won.Verified, cfg.Report); err != nil {
		return nil, err
	}
	if cfg.Stay != nil && sharing.Server != nil {
		ready := sharing.Server.Ready()
		ready.Release = release.Version
		if won.Pointer.Directory.Defined() {
			ready.Head = won.Pointer.Directory.String()
		}
		cfg.Report.SetServing(ready)
		cfg.Stay(ready)
		<-ctx.Done()
	}
	return won.Verified, nil
}

// present returns the counters of the sources and of the cache.
func present(disc *peers.Discovery, c *cache.Cache) []report.SourceStats {
	list := disc.Sources.Stats()
	if st, used := c.Stats(); used {
		list = append(list, st)
	}
	return list
}

// union returns a and those strings of b that a lacks.
func union(a, b []string) []string {
	list := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func resolveStep(ctx context.Context, cfg Config, disc *peers.Discovery, c *cache.Cache, o resolve.Options) (resolve.Result, error) {
	r := cfg.Report
	step := r.Begin("resolve")
	won, err, stale := resolve.Result{}, errNotAsked, false
	if !cfg.LastGood {
		won, err = resolve.Find(ctx, o, disc, c)
	}
	if err != nil {
		if won, err = lastGood(ctx, cfg, err); err != nil {
			return won, step.Abort(err)
		}
	} else if cfg.avoids(won.Verified) && cfg.Mode.Stale == "last-good" {
		won, stale = lastGoodFor(ctx, cfg, won)
	}
	stale = stale || won.Verified.LastGood()
	newest := won.Verified.Release()
	won, failed := fallBack(cfg, won)
	if stale {
		step.Done("NOT UP TO DATE: the last good release, %s", cfg.lastGoodWords())
	}
	rel := won.Verified.Release()
	r.SetRelease(report.Release{Channel: rel.Channel, Arch: rel.Arch, Version: rel.Version, Number: rel.Number, Timestamp: won.Verified.TimestampVersion()})
	if !stale {
		step.Done("%s/%s release %s from %s", rel.Channel, rel.Arch, rel.Version, won.Summary())
	}
	if cfg.Starts != nil && (rel.Bless > 0 || failed != nil) {
		n, _ := cfg.starts(rel)
		r.SetTries(report.Tries{Starts: n + 1, Limit: MaxTries, Failed: failed})
	}
	if first := won.Verified.Newest(); first.ContentNumber() != newest.ContentNumber() && failed == nil && !stale {
		r.Say("roll-out: release %s is the newest, and not for this machine; it takes %s", first.Version, rel.Version)
	}
	return won, nil
}

// errNotAsked is the reason for the last good release when a person chose it.
var errNotAsked = errors.New("no source was asked, because a person chose the last good release")

// errAvoided is the reason for the last good release when the newest one cannot be booted.
var errAvoided = errors.New("this machine could not boot it")

// avoids reports whether a release is not to be booted.
func (c Config) avoids(v *manifest.Verified) bool { return c.Avoid != nil && c.Avoid(v.Release()) }

// lastGoodFor returns the last good release in place of one that could not be booted, or that one again if
// there is no other: what failed may have been fixed. replaced reports which one.
func lastGoodFor(ctx context.Context, cfg Config, found resolve.Result) (won resolve.Result, replaced bool) {
	if cfg.Cache == "" || ctx.Err() != nil {
		return found, false
	}
	failed := found.Verified.Release()
	cause := fmt.Errorf("release %.80q: %w", failed.Version, errAvoided)
	older, err := cfg.verifiedBefore(ctx, found.Verified)
	if err != nil {
		cfg.Report.Warn("resolve: %v; the last good release: %v; release %.80q is tried again", cause, err, failed.Version)
		return found, false
	}
	cfg.Report.Refuse("all sources", "the newest release", cause)
	return resolve.Result{Verified: older, Memory: cas.NewMemory()}, true
}

// verifiedBefore returns the newest release that this machine verified before the one of v, or the last one that has
// started here. The manifest of v judges it: a cache that is not written has an older one.
func (c Config) verifiedBefore(ctx context.Context, v *manifest.Verified) (*manifest.Verified, error) {
	var refused error
	if last, err := manifest.LastGood(ctx, c.policy()); err == nil && !c.avoids(last) && last.Release().Content() != v.Release().Content() {
		older, err := v.Fallback(last.Release().Content(), last.Manifest())
		if err == nil {
			return older, nil
		}
		refused = err
	}
	older, err := c.blessed(v)
	if errors.Is(err, errNoneBlessed) && refused != nil {
		err = refused
	}
	return older, err
}

// lastGoodWords says who allowed the last good release.
func (c Config) lastGoodWords() string {
	switch {
	case c.LastGood:
		return "as a person chose"
	case c.StaleBy != "":
		return "as " + c.StaleBy + " allows"
	}
	return "as mode " + c.Mode.Name + " allows"
}

// lastGood returns the newest release that this machine verified before or, if that one could not be
// booted, the last one that has started here. The mode must allow that, or a person has chosen it. It is
// used when no valid release was found, for any reason.
func lastGood(ctx context.Context, cfg Config, cause error) (resolve.Result, error) {
	if cfg.LastGood && cfg.Cache == "" {
		return resolve.Result{}, fmt.Errorf("%w, and this machine has no cache with one", cause)
	}
	if cfg.Mode.Stale != "last-good" && !cfg.LastGood || cfg.Cache == "" || ctx.Err() != nil {
		return resolve.Result{}, cause
	}
	v, err := manifest.LastGood(ctx, cfg.policy())
	if err == nil && cfg.avoids(v) {
		v, err = cfg.blessed(v)
	}
	if err != nil {
		return resolve.Result{}, fmt.Errorf("%w; the last good release: %w", cause, err)
	}
	cfg.Report.Refuse("all sources", "their metadata", cause)
	return resolve.Result{Verified: v, Memory: cas.NewMemory()}, nil
}
