package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file"
)

// kind is the kind of a cache in the report.
const kind = "cache"

// A Cache is the store of blocks on the machine's disk. It is an untrusted source that is
// read before all others. Its errors never end a boot. The zero cache is off.
type Cache struct {
	Options
	store *pack.Store // nil when the cache is off

	mu            sync.Mutex
	stats         report.SourceStats
	broken        error            // a write failed; nothing more is written
	roomExhausted bool             // nothing more can be removed from a full disk
	damaged       map[cid.Cid]bool // damaged blocks; true once they are rewritten
}

// Get returns a verified block, or false. A damaged block is counted as a fault of the cache;
// the caller fetches it from another source.
func (c *Cache) Get(ctx context.Context, id cid.Cid) ([]byte, bool) {
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
		c.damaged[id] = false
		c.Log.Debug("cache: damaged", "cause", err)
	default:
		c.stats.AddFault(err)
	}
	return nil, false
}

// IsOpen reports whether there is a store.
func (c *Cache) IsOpen() bool { return c.store != nil }

// Writable reports whether blocks are stored.
func (c *Cache) Writable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store != nil && !c.ReadOnly && c.broken == nil
}

// WriteError returns the error that has ended all writing, nil if there was none.
func (c *Cache) WriteError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// Put stores a verified block if the cache may be written. It overwrites a damaged copy.
func (c *Cache) Put(ctx context.Context, id cid.Cid, data []byte) {
	if !c.Writable() {
		return
	}
	keep := c.store.Put
	if c.needsRewrite(id) {
		keep = c.rewrite
	}
	if err := keep(ctx, id, data); err != nil && ctx.Err() == nil {
		c.stopWriting(err)
	}
}

func (c *Cache) needsRewrite(id cid.Cid) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	repaired, bad := c.damaged[id]
	return bad && !repaired
}

func (c *Cache) rewrite(ctx context.Context, id cid.Cid, data []byte) error {
	err := c.store.Rewrite(ctx, id, data)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.damaged[id] = true
	}
	return err
}

// damageSummary says how many blocks were damaged and how many were repaired. c.mu is held.
func (c *Cache) damageSummary() string {
	repaired := 0
	for _, ok := range c.damaged {
		if ok {
			repaired++
		}
	}
	words := report.Count(len(c.damaged), "damaged block")
	switch {
	case repaired == len(c.damaged):
		return words + ", fetched again"
	case c.ReadOnly:
		return words + ", not repaired: the cache is read-only"
	}
	return fmt.Sprintf("%s, %d fetched again; the next fetch requests the others", words, repaired)
}

// stopWriting ends all writing after an error. A full disk ends it only after noMoreRoom.
func (c *Cache) stopWriting(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil || file.IsFull(err) && !c.roomExhausted {
		return
	}
	c.broken = lost(err)
	c.stats.AddFault(c.broken)
	c.Report.Refuse("cache", "storing blocks", c.broken)
}

// lost adds to a write error what it means for the next fetch.
func lost(err error) error {
	if file.IsFull(err) {
		return errors.New("disk full: the blocks that did not fit are fetched again next time")
	}
	return fmt.Errorf("%w; no more blocks are stored, and the others are fetched again next time", err)
}

// noMoreRoom records that nothing more can be removed from the cache's disk.
func (c *Cache) noMoreRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roomExhausted = true
}

// Has reports whether the store lists a block.
func (c *Cache) Has(ctx context.Context, id cid.Cid) bool {
	ok, err := c.store.Has(ctx, id)
	return ok && err == nil
}

// Sync makes the stored blocks durable.
func (c *Cache) Sync(ctx context.Context) {
	if !c.Writable() {
		return
	}
	if err := c.store.Sync(ctx); err != nil && ctx.Err() == nil {
		c.stopWriting(err)
	}
}

// Close closes the store. The blocks of a failed fetch become durable too.
func (c *Cache) Close() {
	if c.store == nil {
		return
	}
	if err := c.store.Close(); err != nil {
		c.Log.Warn("cache: close", "cause", err)
	}
	c.store = nil
}

// Stats returns the counters and faults, and whether the cache was used.
func (c *Cache) Stats() (report.SourceStats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.stats
	out.Faults = slices.Clone(out.Faults)
	if len(c.damaged) > 0 {
		out.Faults = append(out.Faults, c.damageSummary())
	}
	return out, out.Used()
}
