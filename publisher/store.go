package publisher

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

	"github.com/phaseboot/phaseboot/cas"
)

// openStore opens a store to read it. A folder that is not a store wraps fs.ErrNotExist, an
// empty one too: a slip of the name may have met it.
func openStore(dir string, log *slog.Logger) (*cas.Packs, error) {
	if err := checkStore(dir); err != nil {
		return nil, err
	}
	return cas.OpenPacks(dir, cas.PackOptions{ReadOnly: true, Log: log})
}

// openOrEmpty is openStore, and takes an empty folder for an empty store where nothing was
// published: the operator made it for the first release.
func openOrEmpty(dir string, published bool, log *slog.Logger) (*cas.Packs, error) {
	if !published && isEmpty(dir) {
		return cas.OpenPacks(dir, cas.PackOptions{ReadOnly: true, Log: log})
	}
	return openStore(dir, log)
}

func checkStore(dir string) error {
	there, err := cas.IsStore(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("store %s: %w; make it with phase-publish add", dir, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("store %s: is a file (%w); name the folder that phase-publish add made", dir, fs.ErrInvalid)
	case err != nil:
		return fmt.Errorf("store: %w", err)
	case !there:
		return fmt.Errorf("store %s: no store in it: %w; name the folder that phase-publish add made", dir, fs.ErrNotExist)
	}
	return nil
}

// A newStore is a store that an add has just made, or nothing: for one that was there.
type newStore struct {
	made      string // the uppermost folder that was not there; "" when all were
	dir       string // "" for a store that was there
	timestamp int64  // that was published then, 0 for none
	before    []fs.DirEntry
}

// remove takes back what was made for a release that did not get in: an empty store would take
// the next slip of the name for meant. What was in the folder before, and what no store writes,
// is somebody's and stays.
func (n newStore) remove() error {
	if n.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(n.dir)
	for _, e := range entries {
		if ofStore.MatchString(e.Name()) && !slices.ContainsFunc(n.before, named(e.Name())) {
			err = errors.Join(err, os.Remove(filepath.Join(n.dir, e.Name())))
		}
	}
	for dir := n.dir; n.made != "" && err == nil; dir = filepath.Dir(dir) {
		if err = os.Remove(dir); dir == n.made {
			break
		}
	}
	return err
}

// ofStore are the names of the files that cas.Packs writes.
var ofStore = regexp.MustCompile(`^(lock|packs\.idx|pack-[0-9]+\.(car|idx))(\.tmp)?$`)

func named(name string) func(fs.DirEntry) bool {
	return func(e fs.DirEntry) bool { return e.Name() == name }
}

// openFor opens the store that releases of a repository go into. Where some are published,
// a slip of the name must not move the head to a release that the store which is served
// does not have: a new store is then made in an empty folder only, which says that it is
// meant.
func (r *repo) openFor(ctx context.Context, dir string, log *slog.Logger) (*cas.Packs, newStore, error) {
	there, err := cas.IsStore(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, newStore{}, checkStore(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) || there {
		packs, err := cas.OpenPacks(dir, cas.PackOptions{Log: log}) // it says what is wrong with it
		return packs, newStore{}, err
	}
	p, err := r.published(ctx)
	if err != nil {
		return nil, newStore{}, err
	}
	if p != nil && !isEmpty(dir) {
		return nil, newStore{}, fmt.Errorf("store %s: no store in it, and repository %s has releases: %w; name their store, or make an empty folder for a new one", dir, r.dir, fs.ErrNotExist)
	}
	made := newStore{made: firstMissing(dir), dir: filepath.Clean(dir)}
	if p != nil {
		made.timestamp = p.timestamp.Signed.Version
	}
	if made.before, err = os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, newStore{}, fmt.Errorf("store: %w", err)
	}
	log.Info("a new store", "folder", dir)
	packs, err := cas.OpenPacks(dir, cas.PackOptions{Log: log})
	if errors.Is(err, cas.ErrBusy) { // another add makes it just now
		return nil, newStore{}, err
	}
	if err != nil {
		return nil, newStore{}, errors.Join(err, made.remove())
	}
	return packs, made, nil
}

// firstMissing is the uppermost folder of a path that is not there, "" when all are.
func firstMissing(dir string) (missing string) {
	dir = filepath.Clean(dir)
	for {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		up := filepath.Dir(dir)
		if missing = dir; up == dir {
			return missing
		}
		dir = up
	}
}

const lostFound = "lost+found" // of a new file system

// isEmpty reports whether dir is a folder that somebody made and put nothing into.
func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lostFound })
	return err == nil && len(entries) == 0
}

// lost makes damage of the absence of a block that the store must have. Whoever reads a store
// that lost blocks says the same, with the same exit code.
func lost(store string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt) {
		return err
	}
	return Damaged(store, err.Error())
}

// lostOr is lost where the store lacks blocks of what is published, and err elsewhere: the
// store may never have had what is not there.
func (r *repo) lostOr(ctx context.Context, dir string, store cas.Store, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	releases, readErr := r.publishedReleases(ctx)
	if readErr != nil {
		return err
	}
	if gap := whole(ctx, store, releases); errors.Is(gap, fs.ErrNotExist) {
		return lost(dir, fmt.Errorf("%w; %w", err, gap))
	}
	return err
}
