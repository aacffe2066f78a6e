package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// Cached returns the newest release that the cache holds whole and whose metadata are valid: the one
// that Find returns if no source answers. With lastGood, it may also be the newest release that was
// verified before, whose metadata have expired. It uses no network and writes nothing.
func Cached(ctx context.Context, o Options, c *cache.Cache, lastGood bool) (*manifest.Verified, error) {
	if !c.IsOpen() {
		return nil, fmt.Errorf("cache: %w: not open", cas.ErrUnreachable)
	}
	r := &resolver{Options: o, cache: c}
	best := r.fromCache(ctx)
	if best.err == nil || !lastGood {
		return best.v, best.err
	}
	v, err := manifest.LastGood(ctx, o.Policy())
	if err == nil {
		err = Holds(ctx, v.Release(), c)
	}
	return v, err
}

// fromCache returns the newest release of which the cache holds the pointer, valid metadata
// and all blocks. It needs no network. If there is none, the result has an error.
func (r *resolver) fromCache(ctx context.Context) (best checkResult) {
	best.err = fmt.Errorf("cache: %w: no pointer to a release", cas.ErrUnreachable)
	for _, name := range r.Names {
		ptr, err := SavedPointer(r.cache.Dir, name)
		if err != nil {
			continue
		}
		v := r.verify(ctx, ptr, peers.Pool{Cache: r.cache})
		if v.err == nil {
			v.err = Holds(ctx, v.v.Release(), r.cache)
		}
		if v.err == nil && (best.v == nil || Newer(v.v, best.v)) {
			best = v
		}
	}
	return best
}

// Holds returns nil if a cache has every block of a release. It skips device trees, of
// which a boot loads one at most: the cache has that one after the first boot.
func Holds(ctx context.Context, rel manifest.Release, c *cache.Cache) error {
	if !c.IsOpen() {
		return fmt.Errorf("cache: %w: not open", cas.ErrUnreachable)
	}
	for _, a := range rel.Artifacts {
		if strings.HasPrefix(a.Role, "dtb/") || manifest.IsBootSet(a.Role) {
			continue
		}
		leaves, err := cas.Leaves(ctx, peers.Pool{Cache: c}, a.CID, a.Length)
		if err != nil {
			return err
		}
		for _, l := range leaves {
			if !c.Has(ctx, l.CID) {
				return fmt.Errorf("block %s: %w: not in the cache", l.CID, cas.ErrUnreachable)
			}
		}
	}
	return nil
}

// searchCache starts the search for a release in the cache, beside the search in the network.
func (r *resolver) searchCache(ctx context.Context) {
	if !r.cache.IsOpen() {
		return
	}
	r.readingCache = true
	r.readers.Go(func() {
		v := r.fromCache(ctx)
		r.post(ctx, func() {
			if r.readingCache = false; v.err == nil {
				r.cached = &v
			}
		})
	})
}

// mayUseCache reports whether the release of the cache is taken now. That needs a valid one
// there and no newer one under check. It also needs the end of the wait for sources, or that
// no interface has a link, or that all sources were refused and no other can be found.
func (r *resolver) mayUseCache(over bool) bool {
	if r.cached == nil || r.checkingNewer() {
		return false
	}
	return over || r.disc.Isolated || r.disc.NoLink() || r.checking == 0 && r.pending == 0 && r.disc.Settled(r.lastNews, r.standing)
}

// checkingNewer reports whether a pointer that is newer than the cache's is being checked.
func (r *resolver) checkingNewer() bool {
	for _, cand := range r.candidates {
		if cand.running && slices.ContainsFunc(cand.announcers, func(ptr peers.Pointer) bool { return ptr.Seq > r.cached.pointer.Seq }) {
			return true
		}
	}
	return false
}
