package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Options say where the cache is and how it may be used.
type Options struct {
	Dir      Dir // "" for no cache
	ReadOnly bool
	Named    bool          // a person named it: an unusable one is an error, and is not recreated
	Strict   bool          // what keeps it from being written as it is, is an error: another process, a read-only disk, damage
	Within   time.Duration // deadline for opening it
	Log      *slog.Logger
	Report   *report.Report
	// OpenPacks opens the store: pack.OpenContext, except in tests of a disk that does not answer
	OpenPacks func(context.Context, string, pack.Options) (*pack.Store, error)
}

// Open opens a cache within its deadline. A cache that another process writes, or that is on
// a read-only file system, is opened for reading. A damaged cache is recreated if it may be
// written, unless it was named. An unusable cache is an error if it was named; otherwise the
// report says so and the boot continues without it. With Strict, nothing of this happens and each cause is an error.
func Open(ctx context.Context, o Options) (*Cache, error) {
	c := &Cache{Options: o, damaged: map[cid.Cid]bool{}, stats: report.SourceStats{Name: "cache", Kind: kind, Address: string(o.Dir)}}
	if o.Dir == "" {
		return c, nil
	}
	err := c.open(ctx)
	switch {
	case err == nil, o.ReadOnly && errors.Is(err, fs.ErrNotExist):
		return c, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case o.Strict:
		return nil, fmt.Errorf("cache %s: %w", o.Dir, err)
	case o.Named:
		return nil, fmt.Errorf("cache %s: %w", o.Dir, withRemedy(err))
	}
	c.Report.Refuse("cache", "opening", fmt.Errorf("%w; the boot continues without it: all blocks come from other sources, and none is stored", err))
	return c, nil
}

// withRemedy adds the remedy to the error of a cache that a person named.
func withRemedy(err error) error {
	if errors.Is(err, fs.ErrPermission) || file.IsFull(err) { // these already contain one remedy
		return fmt.Errorf("%w, or omit --cache: then every fetch requests all blocks, and an older release is not recognized", err)
	}
	return fmt.Errorf("%w; name another folder with --cache", err)
}

func (c *Cache) open(ctx context.Context) error {
	err := c.Dir.Check()
	if !c.ReadOnly {
		err = errors.Join(err, writable(string(c.Dir)))
	}
	if err == nil {
		err = c.openStore(ctx)
	}
	if c.ReadOnly || c.Strict {
		return err
	}
	if errors.Is(err, cas.ErrCorrupt) && !c.Named {
		c.Report.Refuse("cache", "opening", err)
		if err = c.Dir.removeDamaged(); err == nil {
			c.Report.Begin("cache").Done("recreated: it was damaged")
			err = c.openStore(ctx)
		}
	}
	if !errors.Is(err, pack.ErrBusy) && !errors.Is(err, syscall.EROFS) {
		return err
	}
	c.Report.Refuse("cache", "storing blocks", fmt.Errorf("%w; opened read-only: new blocks are fetched again next time", err))
	c.ReadOnly = true
	if err = c.openStore(ctx); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openStore opens the store within the deadline. If the disk answers later, the store is closed.
func (c *Cache) openStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Within, fmt.Errorf("not open in time (%s)", c.Within))
	defer cancel()
	type opened struct {
		store *pack.Store
		err   error
	}
	done := make(chan opened, 1)
	open, dir, opts := c.OpenPacks, c.Dir.Blocks(), pack.Options{ReadOnly: c.ReadOnly, Log: c.Log, MaxPack: cachePack, Lazy: true}
	go func() {
		store, err := open(ctx, dir, opts)
		done <- opened{store, err}
	}()
	select {
	case o := <-done:
		c.store = o.store
		return o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.store != nil {
				o.store.Close()
			}
		}()
		return context.Cause(ctx)
	}
}

// writable creates the folder of a cache if it is missing, and returns an error if this user
// cannot write to it.
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
