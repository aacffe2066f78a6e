package bootclient

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
)

// errSlow is the error of a cache that did not open within its deadline.
var errSlow = errors.New("not open in time")

// cacheOptions say where the cache is and how it may be used.
type cacheOptions struct {
	dir      cacheDir // "" for no cache
	readOnly bool
	named    bool          // a person named it: an unusable one is an error, and is not recreated
	within   time.Duration // deadline for opening it
	log      *slog.Logger
	report   *report.Report
}

// openCache opens a cache within its deadline. A cache that another process writes, or that is on
// a read-only file system, is opened for reading. A damaged cache is recreated if it may be
// written, unless it was named. An unusable cache is an error if it was named; otherwise the
// report says so and the boot continues without it.
func openCache(ctx context.Context, o cacheOptions) (*cache, error) {
	c := &cache{cacheOptions: o, damaged: map[cid.Cid]bool{}, stats: report.SourceStats{Name: "cache", Kind: kindCache, Address: string(o.dir)}}
	if o.dir == "" {
		return c, nil
	}
	err := c.open(ctx)
	switch {
	case err == nil, o.readOnly && errors.Is(err, fs.ErrNotExist):
		return c, nil
	case ctx.Err() != nil:
		return c, context.Cause(ctx)
	case o.named:
		return c, fmt.Errorf("cache %s: %w", o.dir, withRemedy(err))
	}
	c.report.Refuse("cache", "opening", fmt.Errorf("%w; the boot continues without it: all blocks come from other sources, and none is stored", err))
	return c, nil
}

// withRemedy adds the remedy to the error of a cache that a person named.
func withRemedy(err error) error {
	if errors.Is(err, fs.ErrPermission) || pack.IsFull(err) { // these already contain one remedy
		return fmt.Errorf("%w, or omit --cache: then every fetch requests all blocks, and an older release is not recognized", err)
	}
	return fmt.Errorf("%w; name another folder with --cache", err)
}

func (c *cache) open(ctx context.Context) error {
	err := c.dir.check()
	if c.readOnly {
		if err == nil {
			err = c.openStore(ctx)
		}
		return err
	}
	err = errors.Join(err, writable(string(c.dir)))
	if err == nil {
		err = c.openStore(ctx)
	}
	if errors.Is(err, cas.ErrCorrupt) && !c.named {
		c.report.Refuse("cache", "opening", err)
		if err = c.dir.removeDamaged(); err == nil {
			c.report.Begin("cache").Done("recreated: it was damaged")
			err = c.openStore(ctx)
		}
	}
	if !errors.Is(err, pack.ErrBusy) && !errors.Is(err, syscall.EROFS) {
		return err
	}
	c.report.Refuse("cache", "storing blocks", fmt.Errorf("%w; opened read-only: new blocks are fetched again next time", err))
	c.readOnly = true
	if err = c.openStore(ctx); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openStore opens the store within the deadline. If the disk answers later, the store is closed.
func (c *cache) openStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.within, fmt.Errorf("%w (%s)", errSlow, c.within))
	type opened struct {
		store *pack.Store
		err   error
	}
	done := make(chan opened, 1)
	open, dir, opts := openPacks, c.dir.blocks(), pack.Options{ReadOnly: c.readOnly, Log: c.log, MaxPack: cachePack, Lazy: true}
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

// openPacks is replaced by tests of a disk that does not answer.
var openPacks = pack.OpenContext

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
