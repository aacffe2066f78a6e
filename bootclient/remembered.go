package bootclient

import (
	"context"
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// remembered is the newest release that the cache holds as a whole and whose metadata is
// valid now: the pointer, the metadata and all blocks. It needs no network. The error says
// why there is none, and wraps fs.ErrNotExist when the cache points to nothing.
func (r *resolver) remembered(ctx context.Context) (best verdict) {
	best.err = fmt.Errorf("cache: %w: it names no release", cas.ErrUnreachable)
	for _, name := range r.names {
		h, err := r.cfg.readHead(name)
		if err != nil {
			continue
		}
		v := r.verify(ctx, h, onDisk{r.cache})
		if v.err == nil {
			v.err = r.cache.holds(ctx, v.v.Release())
		}
		if v.err == nil && (best.v == nil || newer(v.v, best.v)) {
			best = v
		}
	}
	return best
}

// onDisk is the cache alone as a source. What it lacks is no proof that it does not exist.
type onDisk struct{ *cache }

// Block returns a verified block.
func (d onDisk) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := d.get(ctx, c); ok {
		return data, nil
	}
	return nil, fmt.Errorf("block %s: %w: not in the cache", c, cas.ErrUnreachable)
}

// holds returns nil when every block of a release is listed. Device trees are left out: a
// boot takes none.
func (c *cache) holds(ctx context.Context, r manifest.Release) error {
	for _, a := range r.Artifacts {
		if strings.HasPrefix(a.Role, "dtb/") {
			continue
		}
		leaves, err := cas.Leaves(ctx, onDisk{c}, a.CID, a.Length)
		if err != nil {
			return err
		}
		for _, l := range leaves {
			if ok, err := c.store.Has(ctx, l.CID); err != nil || !ok {
				return fmt.Errorf("block %s: %w: not in the cache", l.CID, cas.ErrUnreachable)
			}
		}
	}
	return nil
}

// askCache looks beside the search for what the cache remembers.
func (r *resolver) askCache(ctx context.Context) {
	if r.cache.store == nil {
		return
	}
	r.recalling = true
	r.readers.Go(func() {
		v := r.remembered(ctx)
		select {
		case r.recalled <- v:
		case <-ctx.Done():
		}
	})
}

// mayRecall reports whether the release of the cache is taken now: no source gave a valid
// one, and no newer one is being looked at; and either all were refused and nobody else can
// come, or sources had a while for it.
func (r *resolver) mayRecall(over bool) bool {
	if r.kept == nil || r.newerUnderWay() {
		return false
	}
	return over || r.disc.isolated || r.checking == 0 && r.pending == 0 && r.disc.settled(r.calm, r.standing)
}

// newerUnderWay reports whether a head that is newer than the cache's is being checked.
func (r *resolver) newerUnderWay() bool {
	for _, l := range r.folders {
		for _, h := range l.namers {
			if l.running && h.seq > r.kept.head.seq {
				return true
			}
		}
	}
	return false
}
