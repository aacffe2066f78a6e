package bootclient

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	cachePack  = 16 << 20          // bytes of a pack of the cache: collecting copies what is wanted of one at a time
	tidyMargin = cachePack * 3 / 2 // bytes that stay free for that
)

// makeRoom removes the blocks that the release has no use for from the cache, once the
// disk has no room for those that it still lacks. A disk too full to copy a pack loses the
// whole cache, if the release fits there at all: it comes again, from the network.
func (f *fetch) makeRoom(ctx context.Context, meta *folder) {
	defer f.nodes.Clear()
	defer f.cache.settle()
	if f.cache.store == nil || f.cache.readOnly || meta == nil {
		return
	}
	free, err := freeBytes(f.cache.dir)
	if err != nil || free >= f.total+tidyMargin {
		return
	}
	all, lacks := f.sizes(ctx)
	if lacks == 0 || free >= lacks+tidyMargin {
		return
	}
	f.tidy(ctx, meta, free, all, lacks)
	f.keepNodes(ctx, meta)
}

func (f *fetch) tidy(ctx context.Context, meta *folder, free, all, lacks int64) {
	held, err := f.cache.store.Stats(ctx)
	if err != nil || held.Bytes-(all-lacks) < all/32 { // indexes, inner nodes and metadata are less
		return
	}
	full := free < tidyMargin
	if !full {
		full = f.collect(ctx, meta, lacks)
	}
	if !full || held.Bytes+free < all+all/32 {
		return
	}
	n, err := f.cache.store.Clear(ctx)
	f.cfg.Report.Begin("cache").Done("emptied of %s: its disk is too full to sort out what this release has a use for", bytesOf(n))
	if err != nil && ctx.Err() == nil {
		f.cache.giveUp(err)
	}
}

// collect removes what the release has no use for, and reports whether the disk was too
// full for that.
func (f *fetch) collect(ctx context.Context, meta *folder, lacks int64) (full bool) {
	f.cfg.Report.Say("cache: looks for what this release has no use for, to make room for %s", bytesOf(lacks))
	step := f.cfg.Report.Begin("cache")
	wanted := f.wanted(meta)
	sum, err := f.cache.store.Collect(ctx, func(id cid.Cid) bool { return wanted[id] })
	if cas.IsFull(err) {
		step.Done("no room to copy what this release has a use for")
		return true
	}
	step.Done("%s removed that this release has no use for, to make room for %s", bytesOf(sum.Bytes), bytesOf(lacks))
	if err != nil && !errors.Is(err, cas.ErrCorrupt) && ctx.Err() == nil { // a damaged block is mended when it is read
		f.cache.giveUp(err)
	}
	return false
}

// keepNodes puts what was read before there was room: metadata and inner nodes.
func (f *fetch) keepNodes(ctx context.Context, meta *folder) {
	put := func(id, data any) bool {
		f.cache.put(ctx, id.(cid.Cid), data.([]byte))
		return true
	}
	meta.blocks.Range(put)
	f.nodes.Range(put)
}

// sizes is how many bytes the leaves of the artifacts have, each once, and how many of
// these the cache has not.
func (f *fetch) sizes(ctx context.Context) (all, lacks int64) {
	seen := map[cid.Cid]bool{}
	for _, p := range f.downloads {
		for _, l := range p.leaves {
			if seen[l.CID] {
				continue
			}
			seen[l.CID] = true
			all += l.Size
			if ok, err := f.cache.store.Has(ctx, l.CID); !ok || err != nil {
				lacks += l.Size
			}
		}
	}
	return all, lacks
}

// wanted are the blocks of the release and of the folder with its metadata.
func (f *fetch) wanted(meta *folder) map[cid.Cid]bool {
	set := map[cid.Cid]bool{}
	add := func(id, _ any) bool {
		set[id.(cid.Cid)] = true
		return true
	}
	f.nodes.Range(add)
	meta.blocks.Range(add)
	for _, id := range meta.unread() { // files of one block, as metadata is
		set[id] = true
	}
	for _, p := range f.downloads {
		for _, l := range p.leaves {
			set[l.CID] = true
		}
	}
	return set
}

// freeBytes is what may still be written below dir, in bytes. Where the file system
// cannot tell, that is an error.
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
