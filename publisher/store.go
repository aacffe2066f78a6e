package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"syscall"

	"github.com/phaseboot/phaseboot/cas"
)

// openStore opens a store to read it. A folder that holds other things wraps fs.ErrNotExist;
// an empty one is an empty store.
func openStore(dir string, log *slog.Logger) (*cas.Packs, error) {
	there, err := cas.IsStore(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("store %s: %w; make it with phase-publish add", dir, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("store %s: is a file (%w); name the folder that phase-publish add made", dir, fs.ErrInvalid)
	case err != nil:
		return nil, fmt.Errorf("store: %w", err)
	case !there && !isEmpty(dir):
		return nil, fmt.Errorf("store %s: no store in it: %w; name the folder that phase-publish add made", dir, fs.ErrNotExist)
	}
	return cas.OpenPacks(dir, cas.PackOptions{ReadOnly: true, Log: log})
}

// openFor opens the store that releases of a repository go into. Where some are published,
// a slip of the name must not move the head to a release that the store which is served
// does not have: a new store is then made in an empty folder only, which says that it is
// meant.
func (r *repo) openFor(ctx context.Context, dir string, log *slog.Logger) (*cas.Packs, error) {
	there, err := cas.IsStore(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || there {
		return cas.OpenPacks(dir, cas.PackOptions{Log: log}) // it says what is wrong with it
	}
	p, err := r.published(ctx)
	if err != nil {
		return nil, err
	}
	if p != nil && !isEmpty(dir) {
		return nil, fmt.Errorf("store %s: no store in it, and repository %s has releases: %w; name their store, or make an empty folder for a new one", dir, r.dir, fs.ErrNotExist)
	}
	log.Info("a new store", "folder", dir)
	return cas.OpenPacks(dir, cas.PackOptions{Log: log})
}

// isEmpty reports whether dir is a folder that somebody made and put nothing into.
func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "lost+found" }) // of a new file system
	return err == nil && len(entries) == 0
}
