package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// flushAt is the number of bytes that are collected in memory before they are written to the
// open pack. Writing much more at a time costs several times as much CPU time, because ext4
// then allocates very large pages.
const flushAt = 512 << 10

// writebackAt is the number of bytes that are written to the open pack before the kernel is
// told to bring them to the disk. So the disk works while blocks are put, and the sync at the
// end has little left to wait for.
const writebackAt = 16 << 20

// maxUnsynced is the largest number of sealed packs of a Lazy writer that are not synced. Each
// is an open file.
const maxUnsynced = 256

// maxSections is the number of blocks at which a pack is sealed, whatever its size: the table
// of the open pack is in memory.
const maxSections = 1 << 18

// writer is the part of a Store that only the writing process uses.
type writer struct {
	mu       sync.Mutex  // held during Put, Sync and Close; locked before Store.mu
	open     *pack       // the pack that grows, also the last of Store.packs; nil for none
	next     int         // number of the next pack
	synced   int64       // bytes of the open pack that are synced and indexed
	unsynced []*pack     // sealed packs that are not synced
	busy     atomic.Bool // a writeback is being started
	failed   error       // set when the store is closed, or when a sync failed and the state of the disk is unknown
}

// Put appends data to the open pack unless an index lists c. The block can be read at once;
// it survives a power cut after the next Sync or Close. After an error because the disk is
// full, the blocks that were put before are unchanged, and a later Put or Sync tries again.
func (p *Store) Put(ctx context.Context, c cid.Cid, data []byte) error {
	_, err := p.PutNew(ctx, c, data)
	return err
}

// PutNew is Put, and reports whether the block is new: no index listed it.
func (p *Store) PutNew(ctx context.Context, c cid.Cid, data []byte) (bool, error) {
	if err := cas.CheckPut(c, data); err != nil {
		return false, err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.checkWritable(ctx); err != nil {
		return false, err
	}
	if ok, err := p.find(c, headOnly, func(*pack, section) error { return nil }); ok || err != nil {
		return false, err
	}
	err := p.add(sectionKey([]byte(c.KeyString())), data)
	return err == nil, err
}

// add appends a block to the open pack.
func (p *Store) add(key sectionKey, data []byte) error {
	n := sectionLen(len(data))
	if err := p.ensureOpen(n); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.w.open
	k.pending = appendSection(k.pending, key, data)
	k.sections[key] = k.end
	k.end += n
	return nil
}

// Sync makes all blocks durable that were put before it, and visible to readers.
func (p *Store) Sync(ctx context.Context) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.checkReady(ctx); err != nil {
		return err
	}
	return p.sync()
}

// checkWritable returns an error if no block can be put.
func (p *Store) checkWritable(ctx context.Context) error {
	if p.opts.ReadOnly {
		return fmt.Errorf("store %s: opened for reading only: %w", p.dir, fs.ErrPermission)
	}
	return p.checkReady(ctx)
}

// checkReady returns an error if the store is closed or broken, or ctx has ended.
func (p *Store) checkReady(ctx context.Context) error {
	if p.w.failed != nil {
		return p.w.failed
	}
	return ctx.Err()
}

// ensureOpen makes sure that there is an open pack with room for a section of n bytes.
func (p *Store) ensureOpen(n int64) error {
	k := p.w.open
	if k != nil && (k.end+n > p.opts.MaxPack && len(k.sections) > 0 || len(k.sections) >= maxSections) {
		if err := p.seal(); err != nil {
			return err
		}
	}
	if p.w.open == nil {
		return p.create()
	}
	if len(k.pending) > 0 && len(k.pending)+int(n) > flushAt {
		return p.flush()
	}
	return nil
}

// flush writes the pending bytes to the file. After an error they are still pending, and the
// file is as long as before.
func (p *Store) flush() error {
	k := p.w.open
	if len(k.pending) == 0 {
		return nil
	}
	if err := p.opts.disk.writeAt(k.file.f, k.pending, k.flushed); err != nil {
		return withRemedy(errors.Join(err, p.opts.disk.truncate(k.file.f, k.flushed)))
	}
	p.mu.Lock()
	k.flushed += int64(len(k.pending))
	k.pending = k.pending[:0]
	p.mu.Unlock()
	p.writeBack(k)
	return nil
}

// writeBack starts the writeback of the bytes of the open pack that were written since the last
// time, unless they are few or the disk is still busy with those before. It does not wait.
func (p *Store) writeBack(k *pack) {
	const page = 4096
	from, end := k.writeback, k.flushed&^(page-1)
	if p.opts.Lazy || end-from < writebackAt || !p.w.busy.CompareAndSwap(false, true) {
		return
	}
	k.writeback = end
	go func(f *os.File) {
		defer p.w.busy.Store(false)
		startWriteback(f, from, end-from)
	}(k.file.f)
}

// sync syncs the open pack, and then writes its index: so an index lists only blocks that are
// on the disk.
func (p *Store) sync() error {
	if err := p.syncSealed(); err != nil {
		return err
	}
	k := p.w.open
	if k == nil || p.w.synced == k.end {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.syncFile(k); err != nil {
		return err
	}
	if err := p.writeIndex(k); err != nil {
		return err
	}
	if err := p.opts.disk.syncDir(p.dir); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	p.w.synced = k.end
	return nil
}

// syncSealed syncs the sealed packs that are not synced yet.
func (p *Store) syncSealed() error {
	if len(p.w.unsynced) == 0 {
		return nil
	}
	for len(p.w.unsynced) > 0 {
		if err := p.syncOldest(); err != nil {
			return err
		}
	}
	return p.opts.disk.syncDir(p.dir)
}

// syncOldest syncs the oldest sealed pack that is not synced yet.
func (p *Store) syncOldest() error {
	k := p.w.unsynced[0]
	if err := p.syncFile(k); err != nil {
		return err
	}
	p.w.unsynced = slices.Delete(p.w.unsynced, 0, 1)
	k.file.join(p.pool)
	return nil
}

// syncFile syncs a pack. After an error the store takes no more blocks: the kernel may have
// dropped the pages that it could not write.
func (p *Store) syncFile(k *pack) error {
	if err := p.opts.disk.sync(k.file.f); err != nil {
		p.w.failed = fmt.Errorf("store %s: sync: %w; open the store again", p.dir, withRemedy(err))
		return p.w.failed
	}
	return nil
}

// seal closes the open pack for appending.
func (p *Store) seal() error {
	end := p.sync
	if p.opts.Lazy {
		end = p.indexUnsynced
	}
	if err := end(); err != nil {
		return err
	}
	if err := p.useIndex(context.Background(), p.w.open); err != nil {
		return err
	}
	if !p.opts.Lazy {
		p.w.open.file.join(p.pool)
	}
	p.w.open = nil
	p.merge()
	return nil
}

// indexUnsynced writes the index of the open pack before the pack is synced, and starts the
// writeback of the pack. A later sync waits for it.
func (p *Store) indexUnsynced() error {
	k := p.w.open
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.writeIndex(k); err != nil {
		return err
	}
	p.w.unsynced = append(p.w.unsynced, k)
	go startWriteback(k.file.f, 0, k.end)
	if len(p.w.unsynced) > maxUnsynced {
		return p.syncOldest()
	}
	return nil
}

// create starts a new pack. It writes the empty index first, so that a reader never scans a
// pack whose bytes are not synced.
func (p *Store) create() error {
	k := &pack{
		num: p.w.next, path: p.packPath(p.w.next), sections: make(map[sectionKey]int64),
		end: int64(len(packHeader)), flushed: int64(len(packHeader)),
	}
	if err := p.writeIndex(k); err != nil {
		return err
	}
	f, err := replace(p.opts.disk, k.path, []byte(packHeader))
	if err != nil {
		return fmt.Errorf("store: %w", withRemedy(err))
	}
	if k.file, err = newPackFile(f); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packs = append(p.packs, k)
	p.updateMerged()
	p.w.open, p.w.synced = k, 0
	p.w.next++
	return nil
}

// writeIndex writes the index file of a pack from its table. The file is not synced: a torn
// index has a wrong checksum and is rebuilt.
func (p *Store) writeIndex(k *pack) error {
	f, err := replace(p.opts.disk, p.indexPath(k.num), encodeIndex(k.sections, k.end))
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("store: %w", withRemedy(err))
	}
	return nil
}

// useIndex replaces the table of a pack in memory by its index file.
func (p *Store) useIndex(ctx context.Context, k *pack) error {
	x, err := p.openIndex(ctx, p.indexPath(k.num), k.file)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.index, k.sections, k.pending = x, nil, nil
	x.file.join(p.pool)
	return nil
}

// closeWriter syncs all blocks. After it the store takes no more blocks.
func (p *Store) closeWriter() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	var err error
	if p.w.open != nil || len(p.w.unsynced) > 0 {
		if err = p.w.failed; err == nil {
			err = p.sync()
		}
	}
	p.w.open, p.w.failed = nil, p.errClosed()
	return err
}

// withRemedy adds the remedy to an error of a full or read-only disk.
func withRemedy(err error) error {
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; make it writable for this user", err)
	}
	return file.FullDisk(err)
}
