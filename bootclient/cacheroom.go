package bootclient

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

const (
	cachePack     = 16 << 20          // bytes of a pack; garbage collection copies one pack at a time
	collectMargin = cachePack * 3 / 2 // bytes that must stay free for that copy
)

// A roomPlan lists the blocks of a release, which stay in a cache.
type roomPlan struct {
	size   int64        // bytes of the artifacts
	leaves [][]cas.Leaf // of each artifact
	memory *cas.Memory  // its metadata and inner nodes; nil without them
	unread []cid.Cid    // its metadata files that were not read; each has one block
}

// makeRoom removes the blocks that the release does not need from the cache, if the disk has
// no room for the blocks that the cache lacks. If the disk has no room to copy a pack, makeRoom
// removes the whole cache, provided that the release fits then.
func (c *cache) makeRoom(ctx context.Context, p roomPlan) {
	defer c.noMoreRoom()
	if c.store == nil || c.readOnly || p.memory == nil {
		return
	}
	free, err := freeBytes(c.dir.blocks())
	if err != nil || free >= p.size+collectMargin {
		return
	}
	all, lacks := c.sizes(ctx, p)
	if lacks == 0 || free >= lacks+collectMargin {
		return
	}
	c.free(ctx, p, free, all, lacks)
	for id, data := range p.memory.All() { // there was no room for them when they were read
		c.put(ctx, id, data)
	}
}

func (c *cache) free(ctx context.Context, p roomPlan, free, all, lacks int64) {
	held, err := c.store.Stats(ctx)
	if err != nil || held.Bytes-(all-lacks) < all/32 { // indexes, inner nodes and metadata need less
		return
	}
	full := free < collectMargin
	if !full {
		full = c.collect(ctx, p, lacks)
	}
	if !full || held.Bytes+free < all+all/32 {
		return
	}
	n, err := c.store.Clear(ctx)
	c.report.Begin("cache").Done("all %s removed: the disk is too full to keep only the blocks that this release needs", report.Bytes(n))
	if err != nil && ctx.Err() == nil {
		c.stopWriting(err)
	}
}

// collect removes the blocks that the release does not need. It reports whether the disk was
// too full for that.
func (c *cache) collect(ctx context.Context, p roomPlan, lacks int64) (full bool) {
	c.report.Say("cache: removing blocks that this release does not need, to make room for %s", report.Bytes(lacks))
	step := c.report.Begin("cache")
	sum, err := c.store.Collect(ctx, p.contains())
	if pack.IsFull(err) {
		step.Done("no room to copy the blocks that this release needs")
		return true
	}
	step.Done("%s of blocks removed that this release does not need, to make room for %s", report.Bytes(sum.Bytes), report.Bytes(lacks))
	if err != nil && !errors.Is(err, cas.ErrCorrupt) && ctx.Err() == nil { // a damaged block is repaired when it is read
		c.stopWriting(err)
	}
	return false
}

// sizes returns the bytes of all different leaves, and how many of these bytes the cache lacks.
func (c *cache) sizes(ctx context.Context, p roomPlan) (all, lacks int64) {
	seen := map[cid.Cid]bool{}
	for _, leaves := range p.leaves {
		for _, l := range leaves {
			if seen[l.CID] {
				continue
			}
			seen[l.CID] = true
			all += l.Size
			if !c.has(ctx, l.CID) {
				lacks += l.Size
			}
		}
	}
	return all, lacks
}

// contains returns a function that reports whether a block belongs to the release.
func (p roomPlan) contains() func(cid.Cid) bool {
	set := map[cid.Cid]bool{}
	for id := range p.memory.All() {
		set[id] = true
	}
	for _, id := range p.unread {
		set[id] = true
	}
	for _, leaves := range p.leaves {
		for _, l := range leaves {
			set[l.CID] = true
		}
	}
	return func(id cid.Cid) bool { return set[id] }
}

// freeBytes returns how many bytes may still be written below dir, or an error if the file
// system does not say.
func freeBytes(dir string) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, err
	}
	if disk.Blocks == 0 {
		return 0, errors.ErrUnsupported
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil
}
