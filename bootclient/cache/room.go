package cache

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	cachePack     = 16 << 20          // bytes of a pack; garbage collection copies one pack at a time
	collectMargin = cachePack * 3 / 2 // bytes that must stay free for that copy
)

// A RoomPlan lists the blocks of a release, which stay in a cache, and those of the release to which the machine may have
// to fall back, which stay as long as there is room for the first one.
type RoomPlan struct {
	Size   int64       // bytes of the artifacts
	Leaves []cas.Leaf  // of all artifacts
	Memory *cas.Memory // its metadata and inner nodes; nil without them
	Unread []cid.Cid   // its metadata files that were not read; each has one block

	Fallback []cid.Cid // roots of the artifacts of the other release

	// Keep reports whether a block of another release stays too; nil for none. If the release has no room beside these
	// blocks, nothing is removed.
	Keep func(cid.Cid) bool
}

// MakeRoom removes the blocks that neither release needs from the cache, if the disk has
// no room for the blocks that the cache lacks, and those of the fallback if it still has none then. If the disk has no room to copy a pack, MakeRoom
// removes the whole cache, provided that the release fits then.
func (c *Cache) MakeRoom(ctx context.Context, p RoomPlan) {
	defer c.noMoreRoom()
	if c.store == nil || c.ReadOnly || p.Memory == nil {
		return
	}
	free, err := FreeBytes(c.Dir.Blocks())
	if err != nil || free >= p.Size+collectMargin {
		return
	}
	all, lacks := c.sizes(ctx, p)
	if lacks == 0 || free >= lacks+collectMargin {
		return
	}
	c.free(ctx, p, free, all, lacks)
	for id, data := range p.Memory.All() { // there was no room for them when they were read
		c.Put(ctx, id, data)
	}
}

func (c *Cache) free(ctx context.Context, p RoomPlan, free, all, lacks int64) {
	held, err := c.store.Stats(ctx)
	if err != nil || held.Bytes-(all-lacks) < all/32 { // indexes, inner nodes and metadata need less
		return
	}
	full := free < collectMargin
	if !full {
		full = c.collect(ctx, p, free, lacks)
	}
	if !full || p.Keep != nil || held.Bytes+free < all+all/32 {
		return
	}
	n, err := c.store.Clear(ctx)
	c.Report.Begin("cache").Done("all %s removed: the disk is too full to keep only the blocks that this release needs", report.Bytes(n))
	if len(p.Fallback) > 0 {
		c.Report.Say("cache: no room for the last release that has started here; a fallback to it needs a source")
	}
	if err != nil && ctx.Err() == nil {
		c.stopWriting(err)
	}
}

// collect removes the blocks that the release does not need. It reports whether the disk was
// too full for that.
func (c *Cache) collect(ctx context.Context, p RoomPlan, free, lacks int64) (full bool) {
	needed := p.contains()
	keep := needed
	if p.Keep != nil { // the release must fit beside the others; else they all stay
		if would, err := c.store.WouldCollect(ctx, keep); err == nil && free+would.Bytes < roomFor(lacks) {
			return false
		}
	}
	if other := c.blocksOf(ctx, p.Fallback); len(other) > 0 {
		keep = func(id cid.Cid) bool { return other[id] || needed(id) }
		if would, err := c.store.WouldCollect(ctx, keep); err == nil && free+would.Bytes < lacks+collectMargin {
			c.Report.Say("cache: no room for the last release that has started here; a fallback to it needs a source")
			keep = needed
		}
	}
	c.Report.Say("cache: removing blocks that this release does not need, to make room for %s", report.Bytes(lacks))
	step := c.Report.Begin("cache")
	sum, err := c.store.Collect(ctx, keep, nil)
	if file.IsFull(err) {
		step.Done("no room to copy the blocks that this release needs")
		return true
	}
	step.Done("%s of blocks removed that this release does not need, to make room for %s", report.Bytes(sum.Bytes), report.Bytes(lacks))
	if err != nil && !errors.Is(err, cas.ErrCorrupt) && ctx.Err() == nil { // a damaged block is repaired when it is read
		c.stopWriting(err)
	}
	return false
}

// blocksOf returns the blocks of files whose inner nodes the cache has.
func (c *Cache) blocksOf(ctx context.Context, roots []cid.Cid) map[cid.Cid]bool {
	set := map[cid.Cid]bool{}
	for _, root := range roots {
		_ = cas.Blocks(ctx, c.store, root, func(id cid.Cid) error { // what the cache lacks needs no room
			set[id] = true
			return nil
		})
	}
	return set
}

// sizes returns the bytes of all different leaves, and how many of these bytes the cache lacks.
func (c *Cache) sizes(ctx context.Context, p RoomPlan) (all, lacks int64) {
	seen := map[cid.Cid]bool{}
	for _, l := range p.Leaves {
		if seen[l.CID] {
			continue
		}
		seen[l.CID] = true
		all += l.Size
		if !c.Has(ctx, l.CID) {
			lacks += l.Size
		}
	}
	return all, lacks
}

// contains returns a function that reports whether a block belongs to the release.
func (p RoomPlan) contains() func(cid.Cid) bool {
	set := map[cid.Cid]bool{}
	for id := range p.Memory.All() {
		set[id] = true
	}
	for _, id := range p.Unread {
		set[id] = true
	}
	for _, l := range p.Leaves {
		set[l.CID] = true
	}
	return func(id cid.Cid) bool { return set[id] || p.Keep != nil && p.Keep(id) }
}

// CheckRoom returns an error that wraps syscall.ENOSPC if the disk has no room for the blocks of the release that the
// cache lacks, with the indexes and the copy of a pack. A file system that does not say how much is free passes.
func (c *Cache) CheckRoom(ctx context.Context, p RoomPlan) error {
	free, err := FreeBytes(c.Dir.Blocks())
	if err != nil {
		return nil
	}
	_, lacks := c.sizes(ctx, p)
	if need := roomFor(lacks); lacks > 0 && free < need {
		return fmt.Errorf("cache: %w: %s are needed, %s are free, and removing what may go would not be enough; give the machine a larger cache partition", syscall.ENOSPC, report.Bytes(need), report.Bytes(free))
	}
	return nil
}

// roomFor returns the free bytes with which a cache takes blocks of lacks bytes.
func roomFor(lacks int64) int64 { return lacks + lacks/32 + collectMargin }

// FreeBytes returns how many bytes may still be written below dir, or an error if the file
// system does not say.
func FreeBytes(dir string) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, err
	}
	if disk.Blocks == 0 {
		return 0, errors.ErrUnsupported
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil
}
