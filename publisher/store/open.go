package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Open opens a store for reading: a folder, or an address s3://BUCKET/PREFIX. A folder that is not
// a store wraps fs.ErrNotExist. So does an empty folder, because its name may be mistyped.
func Open(ctx context.Context, name string, log *slog.Logger) (Packs, error) {
	return OpenCached(ctx, name, true, bucket.CacheOptions{}, log)
}

// OpenOrEmpty is Open, and opens an empty folder as an empty store when nothing is
// published: the operator made it for the first release.
func OpenOrEmpty(ctx context.Context, name string, published bool, log *slog.Logger) (Packs, error) {
	return OpenCached(ctx, name, published, bucket.CacheOptions{}, log)
}

// OpenCached is OpenOrEmpty with a cache for a store in an object store.
func OpenCached(ctx context.Context, name string, published bool, cache bucket.CacheOptions, log *slog.Logger) (Packs, error) {
	switch {
	case bucket.Is(name):
		return openBucket(ctx, name, bucket.Options{ReadOnly: true, Cache: cache, Log: log})
	case cache != bucket.CacheOptions{}:
		return nil, fmt.Errorf("cache: the store %s is a folder (%w); --cache and --cache-size are for a store in an object store", name, fs.ErrInvalid)
	}
	if published || !isEmpty(name) {
		if err := check(name); err != nil {
			return nil, err
		}
	}
	return openFolder(ctx, name, pack.Options{ReadOnly: true, Log: log})
}

// openFolder opens a store in a folder.
func openFolder(ctx context.Context, dir string, o pack.Options) (Packs, error) {
	packs, err := pack.OpenContext(ctx, dir, o)
	if err != nil {
		return nil, err // not packs: it is a nil pointer
	}
	return packs, nil
}

func check(dir string) error {
	is, err := pack.IsStore(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("store %s: %w; make it with phase-publish add", dir, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("store %s: is a file (%w); name the folder that phase-publish add made", dir, fs.ErrInvalid)
	case err != nil:
		return fmt.Errorf("store: %w", err)
	case !is:
		return fmt.Errorf("store %s: no store in it: %w; name the folder that phase-publish add made", dir, fs.ErrNotExist)
	}
	return nil
}

// Made is a store that OpenFor made. The zero value stands for a store that existed.
type Made struct {
	dir       string
	folders   []string // that were made, the uppermost first
	timestamp int64    // the published version at that time, 0 for none
	before    []fs.DirEntry
}

// Undo removes a store that was made for a release that was not published: as an empty
// store it would accept the next mistyped name. It keeps files that were in the folder
// before and files that no store writes. It does nothing when a newer timestamp is
// published, because the error came after that.
func (m Made) Undo(r *repo.Repo) error {
	if m.dir == "" {
		return nil
	}
	p, err := r.Published(context.Background())
	if err != nil || p != nil && p.TimestampVersion() != m.timestamp {
		return nil
	}
	return m.remove()
}

func (m Made) remove() error {
	entries, err := os.ReadDir(m.dir)
	for _, e := range entries {
		same := func(b fs.DirEntry) bool { return b.Name() == e.Name() }
		if storeFile.MatchString(e.Name()) && !slices.ContainsFunc(m.before, same) {
			err = errors.Join(err, os.Remove(filepath.Join(m.dir, e.Name())))
		}
	}
	for _, dir := range slices.Backward(m.folders) {
		if err == nil {
			err = os.Remove(dir)
		}
	}
	return err
}

// storeFile matches the names of the files that pack.Store writes.
var storeFile = regexp.MustCompile(`^(lock|packs\.idx|pack-[0-9]+\.(car|idx))(\.tmp)?$`)

// OpenFor opens for writing the store that holds the releases of a repository. When
// releases are published, it makes a new store only in an empty folder: a mistyped name
// must not move the pointer to a release that the served store does not have. In an object store
// fresh stands for the empty folder.
func OpenFor(ctx context.Context, r *repo.Repo, dir string, fresh bool, log *slog.Logger) (Packs, Made, error) {
	if bucket.Is(dir) {
		packs, err := openBucketFor(ctx, r, dir, fresh, log)
		return packs, Made{}, err
	}
	if fresh {
		return nil, Made{}, fmt.Errorf("store %s: is a folder (%w); --new-store is for a store in an object store; make an empty folder for a new one", dir, fs.ErrInvalid)
	}
	is, err := pack.IsStore(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, Made{}, check(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) || is {
		packs, err := openFolder(ctx, dir, pack.Options{Log: log}) // repeats and words err
		return packs, Made{}, err
	}
	p, err := r.Published(ctx)
	if err != nil {
		return nil, Made{}, err
	}
	if p != nil && !isEmpty(dir) {
		return nil, Made{}, fmt.Errorf("store %s: no store in it, and repository %s has releases: %w; name their store, or make an empty folder for a new one", dir, r.Dir, fs.ErrNotExist)
	}
	made := Made{dir: dir, timestamp: p.TimestampVersion()}
	if made.before, err = os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Made{}, fmt.Errorf("store: %w", err)
	}
	log.Info("new store", "folder", dir)
	made.folders, _ = file.MkdirAll(dir, 0o755) // pack.Open repeats and words an error
	packs, err := openFolder(ctx, dir, pack.Options{Log: log})
	if errors.Is(err, pack.ErrBusy) { // another add is making the same store
		return nil, Made{}, err
	}
	if err != nil {
		return nil, Made{}, errors.Join(err, made.remove())
	}
	return packs, made, nil
}

// LostFound is the folder in the root of a new file system.
const LostFound = "lost+found"

// isEmpty reports whether dir is a folder without content.
func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == LostFound })
	return err == nil && len(entries) == 0
}
