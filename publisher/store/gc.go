package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// GC removes the blocks that no kept release and no pin needs. It removes nothing when a
// kept release is incomplete (an error that wraps cas.ErrCorrupt and names it), or when the
// repository has no release (fs.ErrNotExist). A daemon may serve the store meanwhile.
func GC(ctx context.Context, o Options) (pack.Collected, error) {
	if err := o.checkKeep(); err != nil {
		return pack.Collected{}, err
	}
	packs, err := openForGC(ctx, o)
	if err != nil {
		return pack.Collected{}, err
	}
	done, err := collect(ctx, packs, o)
	return done, errors.Join(err, packs.Close())
}

func openForGC(ctx context.Context, o Options) (Packs, error) {
	if bucket.Is(o.Store) {
		return openBucket(ctx, o.Store, bucket.Options{Log: o.Log, ReadOnly: o.Dry, Grace: o.Grace})
	}
	if err := check(o.Store); err != nil {
		return nil, err
	}
	return openFolder(ctx, o.Store, pack.Options{Log: o.Log, ReadOnly: o.Dry})
}

func (o Options) checkKeep() error {
	if o.Keep < 1 {
		return fmt.Errorf("keep %d: %w; at least the newest release of each channel is kept", o.Keep, fs.ErrInvalid)
	}
	return nil
}

// collect lists the releases after it has the store's lock: add holds that lock until its
// release is in the repository.
func collect(ctx context.Context, packs Packs, o Options) (pack.Collected, error) {
	all, err := repo.Releases(ctx, o.Repo)
	if err != nil {
		return pack.Collected{}, err
	}
	if len(all) == 0 {
		return pack.Collected{}, fmt.Errorf("repository %s: it names no release, so nothing was removed: %w; name the repository whose releases the store holds", o.Repo, fs.ErrNotExist)
	}
	needed, err := mark(ctx, packs, o.roots(repo.Newest(all, o.Keep)))
	if err != nil {
		return pack.Collected{}, MustHave(o.Store, err)
	}
	if o.Dry {
		return packs.WouldCollect(ctx, needed.has)
	}
	return packs.Collect(ctx, needed.has, o.progress())
}

// roots are the CIDs of the files that are kept: pins and the artifacts of releases, with those of
// the earlier ones beside them.
func (o Options) roots(releases []manifest.Release) []cid.Cid {
	roots := slices.Clone(o.Pins)
	for _, a := range repo.Artifacts(releases...) {
		roots = append(roots, a.CID)
	}
	return roots
}

// A blockSet is a set of blocks.
type blockSet map[cid.Cid]struct{}

func (s blockSet) has(c cid.Cid) bool { _, ok := s[c]; return ok }

// mark returns the blocks below roots. All must be in the store.
func mark(ctx context.Context, packs Packs, roots []cid.Cid) (blockSet, error) {
	needed := make(blockSet)
	for _, root := range roots {
		err := cas.Blocks(ctx, packs, root, func(c cid.Cid) error {
			if needed.has(c) {
				return nil
			}
			needed[c] = struct{}{}
			return Listed(ctx, packs, c)
		})
		if err != nil {
			return nil, fmt.Errorf("file %s is incomplete, nothing was removed; if an earlier gc removed its blocks, keep fewer with --keep: %w", root, err)
		}
	}
	return needed, nil
}
