package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// errSlow says that the cache was not open in time.
var errSlow = errors.New("not open in time")

// openCache opens the cache that the mode allows, within a deadline. A cache that another
// process writes, or on a file system that is mounted read-only, is read. One that is
// damaged is made anew where it may be written and nobody asked for it by name. One that
// cannot be used is left out, and the report says what is lost; where Config.CacheWanted
// says that it was asked for, that is an error.
func openCache(ctx context.Context, cfg Config) (*cache, error) {
	c := &cache{report: cfg.Report, log: cfg.Log, bad: map[cid.Cid]bool{}, stats: SourceStats{Name: "cache", Kind: kindCache, Address: cfg.Cache}}
	if cfg.Cache == "" {
		return c, nil
	}
	c.dir, c.readOnly = cfg.blocksDir(), cfg.Mode.Cache == "ro"
	err := c.open(ctx, cfg)
	switch {
	case err == nil, c.readOnly && errors.Is(err, fs.ErrNotExist):
		return c, nil
	case ctx.Err() != nil:
		return c, context.Cause(ctx)
	case cfg.CacheWanted:
		return c, fmt.Errorf("cache %s: %w", cfg.Cache, wanted(err))
	}
	c.report.Refuse("cache", "opening", fmt.Errorf("%w; the boot goes on without it: every block comes from other sources, and none is kept", err))
	return c, nil
}

// wanted adds to the error of a cache that was asked for what to do.
func wanted(err error) error {
	if errors.Is(err, fs.ErrPermission) || cas.IsFull(err) { // which say it
		return fmt.Errorf("%w, or leave --cache out: blocks come from other sources each time then, and an older release cannot be told", err)
	}
	return fmt.Errorf("%w; name another folder with --cache", err)
}

func (c *cache) open(ctx context.Context, cfg Config) error {
	err := cfg.checkFolders()
	if c.readOnly {
		if err == nil {
			err = c.openStore(ctx, cfg)
		}
		return err
	}
	err = errors.Join(err, writable(cfg.Cache))
	if err == nil {
		err = c.openStore(ctx, cfg)
	}
	if errors.Is(err, cas.ErrCorrupt) && !cfg.CacheWanted {
		c.report.Refuse("cache", "opening", err)
		if err = cfg.removeDamaged(); err == nil {
			c.report.Begin("cache").Done("made anew: it was damaged")
			err = c.openStore(ctx, cfg)
		}
	}
	if !errors.Is(err, cas.ErrBusy) && !errors.Is(err, syscall.EROFS) {
		return err
	}
	c.report.Refuse("cache", "keeping blocks", fmt.Errorf("%w; it is only read: new blocks come from other sources again next time", err))
	c.readOnly = true
	if err = c.openStore(ctx, cfg); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openStore opens the store of blocks. A disk that does not answer keeps it waiting until the
// deadline; what comes of it afterwards is closed.
func (c *cache) openStore(ctx context.Context, cfg Config) error {
	within := cfg.times.openCache
	if cfg.CacheWanted {
		within = cfg.times.openWanted
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%w (%s)", errSlow, within))
	type opened struct {
		store *cas.Packs
		err   error
	}
	done := make(chan opened, 1)
	open, dir, opts := openPacks, c.dir, cas.PackOptions{ReadOnly: c.readOnly, Log: cfg.Log, MaxPack: cachePack, Lazy: true}
	go func() {
		store, err := open(ctx, dir, opts)
		done <- opened{store, err}
	}()
	select {
	case o := <-done:
		cancel()
		c.store = o.store
		return o.err
	case <-ctx.Done():
		cancel()
		go func() {
			if o := <-done; o.store != nil {
				o.store.Close()
			}
		}()
		return context.Cause(ctx)
	}
}

// openPacks is a variable for the tests of a disk that hangs.
var openPacks = cas.OpenPacksContext

// folders are those of a cache.
func (c Config) folders() []string {
	return []string{c.blocksDir(), c.trustDir(), filepath.Dir(c.headFile(""))}
}

// CheckCache refuses a folder that holds something and is no cache, so that none is made in
// the middle of a person's files. One that is not there, empty, or cannot be listed passes.
// The error wraps fs.ErrInvalid.
func CheckCache(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || dir == "" {
		return nil
	}
	for _, folder := range (Config{Cache: dir}).folders() {
		if _, err := os.Lstat(folder); err == nil {
			return nil
		}
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return misuse{fmt.Sprintf("cache %s: holds %.80q and is no cache; name an empty or a new folder", dir, e.Name())}
		}
	}
	return nil
}

// checkFolders wants the folders of a cache to be folders, if they are there. A link leads
// out of the cache: it wraps cas.ErrCorrupt, as any other kind does.
func (c Config) checkFolders() error {
	for _, dir := range c.folders() {
		if err := file.CheckFolder(dir); errors.Is(err, file.ErrKind) {
			return fmt.Errorf("%w (%w); remove it", err, cas.ErrCorrupt)
		}
	}
	return nil
}

// removeDamaged removes the blocks, and what is no folder but should be. What is behind a
// link stays as it is.
func (c Config) removeDamaged() error {
	err := os.RemoveAll(c.blocksDir())
	for _, dir := range c.folders() {
		if errors.Is(file.CheckFolder(dir), file.ErrKind) {
			err = errors.Join(err, os.Remove(dir))
		}
	}
	return err
}

// writable reports why nothing can be written to a cache, if so. A folder that is not there
// is made.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	switch err := unix.Access(dir, unix.W_OK|unix.X_OK); {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("not writable for this user (%w); make it writable", fs.ErrPermission)
	case err != nil:
		return &fs.PathError{Op: "write", Path: dir, Err: err}
	}
	return nil
}
