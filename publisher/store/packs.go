package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Packs is a store of blocks in packs: in a folder (cas/pack), or in an object store
// (publisher/bucket).
type Packs interface {
	cas.Store
	// PutNew is Put, and reports whether the block is new.
	PutNew(ctx context.Context, c cid.Cid, data []byte) (bool, error)
	// Stats returns what the store lists. A reader lists its packs again.
	Stats(ctx context.Context) (pack.Stats, error)
	// Each calls f for every block with the bytes of its section.
	Each(ctx context.Context, f func(c cid.Cid, bytes int64) error) error
	// Collect removes the blocks for which keep returns false; WouldCollect returns what it
	// would remove.
	Collect(ctx context.Context, keep func(cid.Cid) bool, progress func(done, total int64)) (pack.Collected, error)
	WouldCollect(ctx context.Context, keep func(cid.Cid) bool) (pack.Collected, error)
}

var (
	_ Packs = (*pack.Store)(nil)
	_ Packs = (*bucket.Store)(nil)
)

// Changed returns when the packs of a store changed last.
func Changed(ctx context.Context, name string, packs Packs) (time.Time, error) {
	if b, ok := packs.(*bucket.Store); ok {
		return b.Changed(ctx)
	}
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// openBucket opens a store in an object store. Only an address where nothing was stored yet is an
// error, which wraps fs.ErrNotExist: it may be mistyped.
func openBucket(ctx context.Context, name string, o bucket.Options) (Packs, error) {
	if is, err := bucket.Exists(ctx, name); err != nil {
		return nil, err
	} else if !is {
		return nil, fmt.Errorf("store %s: no store there: %w; make it with phase-publish add", shown(name), fs.ErrNotExist)
	}
	packs, err := bucket.Open(ctx, name, o)
	if err != nil {
		return nil, err // not packs: it is a nil pointer
	}
	return packs, nil
}

// shown is the name of a store in messages: without the parameters of an address.
func shown(name string) string {
	if a, err := bucket.ParseAddress(name); bucket.Is(name) && err == nil {
		return a.String()
	}
	return name
}

// openFor is OpenFor in an object store. There is no folder that an operator makes for a new store:
// fresh says that one is to be made although releases are published.
func openBucketFor(ctx context.Context, r *repo.Repo, name string, fresh bool, log *slog.Logger) (Packs, error) {
	packs, err := openBucket(ctx, name, bucket.Options{Log: log})
	if !errors.Is(err, fs.ErrNotExist) {
		return packs, err
	}
	is, existsErr := bucket.Exists(ctx, name) // a missing bucket is no new store
	if existsErr != nil || is {
		return nil, errors.Join(err, existsErr)
	}
	p, err := r.Published(ctx)
	if err != nil {
		return nil, err
	}
	if p != nil && !fresh {
		return nil, fmt.Errorf("store %s: no store there, and repository %s has releases: %w; name their store, or make a new one with --new-store", shown(name), r.Dir, fs.ErrNotExist)
	}
	log.Info("new store", "store", shown(name))
	made, err := bucket.Open(ctx, name, bucket.Options{Log: log})
	if err != nil {
		return nil, err
	}
	return made, nil
}
