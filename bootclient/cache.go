package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A cache is the disk's store of blocks: one more source that may lie, asked before
// all others, and never a reason to stop. The zero cache is off.
type cache struct {
	store    *cas.Packs
	dir      string // of the store
	readOnly bool
	report   *Report
	log      *slog.Logger

	mu      sync.Mutex
	stats   SourceStats
	broken  bool             // a write failed: no more of them
	settled bool             // what could make room on a full disk has been removed
	bad     map[cid.Cid]bool // blocks that were damaged, true when written again
}

// get returns a verified block, or false. A block that went bad is a fault of the
// cache and is fetched again.
func (c *cache) get(ctx context.Context, id cid.Cid) ([]byte, bool) {
	if c.store == nil {
		return nil, false
	}
	data, err := cas.Get(ctx, c.store, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.stats.Blocks++
		c.stats.Bytes += int64(len(data))
		return data, true
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil:
	case errors.Is(err, cas.ErrCorrupt):
		c.bad[id] = false
		c.log.Debug("cache: damaged", "err", err)
	case len(c.stats.Faults) < maxFaults:
		c.stats.Faults = append(c.stats.Faults, clean(err.Error()))
	}
	return nil, false
}

func (c *cache) writable() bool { return c.store != nil && !c.readOnly && !c.isBroken() }

// put keeps a verified block when the cache may be written, in place of the damaged one
// if there is one.
func (c *cache) put(ctx context.Context, id cid.Cid, data []byte) {
	if !c.writable() {
		return
	}
	keep := c.store.Put
	if c.isBad(id) {
		keep = c.rewrite
	}
	if err := keep(ctx, id, data); err != nil && ctx.Err() == nil {
		c.giveUp(err)
	}
}

func (c *cache) isBad(id cid.Cid) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	mended, bad := c.bad[id]
	return bad && !mended
}

func (c *cache) rewrite(ctx context.Context, id cid.Cid, data []byte) error {
	err := c.store.Rewrite(ctx, id, data)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bad[id] = true
	}
	return err
}

// damage says in words how many blocks were damaged, and what became of them. c.mu is held.
func (c *cache) damage() string {
	mended := 0
	for _, ok := range c.bad {
		mended += number(ok)
	}
	words := count(len(c.bad), "damaged block")
	switch {
	case mended == len(c.bad):
		return words + ", fetched again"
	case c.readOnly:
		return words + ", which stay: the cache is only read"
	}
	return fmt.Sprintf("%s, %d fetched again; the next fetch asks for the others", words, mended)
}

func (c *cache) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// giveUp ends writing. Before there was a chance to make room, a full disk is no reason.
func (c *cache) giveUp(err error) {
	c.mu.Lock()
	first := !c.broken && (c.settled || !cas.IsFull(err))
	c.broken = c.broken || first
	if first {
		c.stats.Faults = append(c.stats.Faults, clean(lost(err).Error()))
	}
	c.mu.Unlock()
	if first {
		c.report.Refuse("cache", "keeping blocks", lost(err))
	}
}

// lost says what a cache that can no longer be written costs.
func lost(err error) error {
	if cas.IsFull(err) {
		return errors.New("its disk is full: what did not fit comes from other sources again next time")
	}
	return fmt.Errorf("%w; nothing more is kept, and the rest comes from other sources again next time", err)
}

// settle says that nothing more can be removed to make room.
func (c *cache) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = true
}

// sync makes what was kept durable.
func (c *cache) sync(ctx context.Context) {
	if !c.writable() {
		return
	}
	if err := c.store.Sync(ctx); err != nil && ctx.Err() == nil {
		c.giveUp(err)
	}
}

// close ends the use of the cache; what a fetch that failed kept is made durable too.
func (c *cache) close() {
	if c.store == nil {
		return
	}
	if err := c.store.Close(); err != nil {
		c.log.Warn("cache: close", "err", err)
	}
	c.store = nil
}

func (c *cache) snapshot() (SourceStats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.stats
	out.Faults = append([]string(nil), out.Faults...)
	if len(c.bad) > 0 {
		out.Faults = append(out.Faults, c.damage())
	}
	return out, out.Blocks > 0 || len(out.Faults) > 0
}
