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
	c := f.cache
	if !c.writable() || meta == nil {
		return
	}
	free, err := freeBytes(c.dir)
	if err != nil || free >= f.total+tidyMargin {
		return
	}
	lacks := f.lacks(ctx)
	if lacks == 0 || free >= lacks+tidyMargin {
		return
	}
	wanted := f.wanted(meta)
	if free < tidyMargin {
		held, err := c.store.Stats(ctx)
		if err != nil || held.Bytes+free < f.total+f.total/32 { // an index and inner nodes are less
			return
		}
		clear(wanted)
	}
	f.tidy(ctx, wanted, lacks)
	if len(wanted) == 0 {
		f.keepNodes(ctx, meta)
	}
}

func (f *fetch) tidy(ctx context.Context, wanted map[cid.Cid]bool, lacks int64) {
	sum, err := f.cache.store.Collect(ctx, func(id cid.Cid) bool { return wanted[id] })
	if sum.Bytes > 0 {
		f.cfg.Report.Begin("cache").Done("%s removed that this release has no use for, to make room for %s", bytesOf(sum.Bytes), bytesOf(lacks))
	}
	if err != nil && !errors.Is(err, cas.ErrCorrupt) && ctx.Err() == nil { // a damaged block is mended when it is read
		f.cache.giveUp(err)
	}
}

// keepNodes puts back what was read before there was room: metadata and inner nodes.
func (f *fetch) keepNodes(ctx context.Context, meta *folder) {
	again := func(id, data any) bool {
		f.cache.put(ctx, id.(cid.Cid), data.([]byte))
		return true
	}
	meta.blocks.Range(again)
	f.nodes.Range(again)
}

// lacks is how many bytes of the artifacts the cache has not.
func (f *fetch) lacks(ctx context.Context) (n int64) {
	for _, p := range f.parts {
		for _, l := range p.leaves {
			if ok, err := f.cache.store.Has(ctx, l.CID); !ok || err != nil {
				n += l.Size
			}
		}
	}
	return n
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
	for _, p := range f.parts {
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
