package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"

	"github.com/ipfs/go-cid"
)

// flushAt is how much is collected before it is written to the open pack, in bytes. Much
// more at a time costs several times as much: ext4 then asks for very large pages.
const flushAt = 512 << 10

// maxBehind is how many sealed packs of a Lazy writer wait for the disk at most: each is an
// open file.
const maxBehind = 256

// maxSections is where a pack is sealed whatever its size: its table is in memory.
const maxSections = 1 << 18

// writer is the part of Packs that only the one writing process uses.
type writer struct {
	mu     sync.Mutex // held through Put, Sync and Close; taken before Packs.mu
	open   *pack      // the pack that grows, also the last of Packs.packs; nil for none
	next   int        // number of the next pack
	synced int64      // bytes of the open pack that are durable and indexed
	behind []*pack    // sealed ones that are not synced
	failed error      // closed, or a sync failed and what the disk holds is unknown
}

// Put appends data to the open pack unless c is listed. The block can be read at once; it
// survives a power cut after the next Sync or Close. When the disk is full, what was
// put before stays as it is, and a later Put or Sync tries again.
func (p *Packs) Put(ctx context.Context, c cid.Cid, data []byte) error {
	if err := checkPut(c, data); err != nil {
		return err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.writable(ctx); err != nil {
		return err
	}
	if ok, err := p.find(c, headOnly, func(*pack, section) error { return nil }); ok || err != nil {
		return err
	}
	return p.add(sectionKey([]byte(c.KeyString())), data)
}

// add appends a block to the open pack.
func (p *Packs) add(key sectionKey, data []byte) error {
	n := sectionLen(len(data))
	if err := p.makeRoom(n); err != nil {
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

// Sync makes every block put so far durable and shows it to readers.
func (p *Packs) Sync(ctx context.Context) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.ready(ctx); err != nil {
		return err
	}
	return p.sync()
}

// writable reports why nothing may be put, if so.
func (p *Packs) writable(ctx context.Context) error {
	if p.opts.ReadOnly {
		return fmt.Errorf("store %s: opened for reading only: %w", p.dir, fs.ErrPermission)
	}
	return p.ready(ctx)
}

// ready reports why nothing may be written, if so.
func (p *Packs) ready(ctx context.Context) error {
	if p.w.failed != nil {
		return p.w.failed
	}
	return ctx.Err()
}

// makeRoom leaves an open pack that can take a section of n bytes.
func (p *Packs) makeRoom(n int64) error {
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

// flush writes what is pending, always to the same place: after an error it is
// still pending, and the file is as long as before.
func (p *Packs) flush() error {
	k := p.w.open
	if len(k.pending) == 0 {
		return nil
	}
	if err := p.opts.disk.writeAt(k.file.f, k.pending, k.flushed); err != nil {
		return hint(errors.Join(err, p.opts.disk.truncate(k.file.f, k.flushed)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.flushed += int64(len(k.pending))
	k.pending = k.pending[:0]
	return nil
}

// sync brings the open pack to the disk, and only then its index: what an index lists
// is there.
func (p *Packs) sync() error {
	if err := p.catchUp(); err != nil {
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

// catchUp brings sealed packs to the disk.
func (p *Packs) catchUp() error {
	if len(p.w.behind) == 0 {
		return nil
	}
	for len(p.w.behind) > 0 {
		if err := p.syncOldest(); err != nil {
			return err
		}
	}
	return p.opts.disk.syncDir(p.dir)
}

// syncOldest brings the sealed pack that waits longest to the disk.
func (p *Packs) syncOldest() error {
	k := p.w.behind[0]
	if err := p.syncFile(k); err != nil {
		return err
	}
	p.w.behind = slices.Delete(p.w.behind, 0, 1)
	p.pool.join(k.file)
	return nil
}

// syncFile brings a pack to the disk. After an error the kernel may forget what it did not
// write.
func (p *Packs) syncFile(k *pack) error {
	if err := p.opts.disk.sync(k.file.f); err != nil {
		p.w.failed = fmt.Errorf("store %s: sync: %w; open the store again", p.dir, hint(err))
		return p.w.failed
	}
	return nil
}

// seal ends the open pack.
func (p *Packs) seal() error {
	end := p.sync
	if p.opts.Lazy {
		end = p.leaveBehind
	}
	if err := end(); err != nil {
		return err
	}
	if err := p.useIndex(context.Background(), p.w.open); err != nil {
		return err
	}
	if !p.opts.Lazy {
		p.pool.join(p.w.open.file)
	}
	p.w.open = nil
	p.merge()
	return nil
}

// leaveBehind indexes the open pack, which a later sync brings to the disk, and has the disk
// begin with it.
func (p *Packs) leaveBehind() error {
	k := p.w.open
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.writeIndex(k); err != nil {
		return err
	}
	p.w.behind = append(p.w.behind, k)
	go begin(k.file.f, k.end)
	if len(p.w.behind) > maxBehind {
		return p.syncOldest()
	}
	return nil
}

// create begins a pack. Its empty index comes first: a reader that sees the pack
// never has to look at bytes that are not synced.
func (p *Packs) create() error {
	k := &pack{
		num: p.w.next, path: p.packPath(p.w.next), sections: make(map[sectionKey]int64),
		end: int64(len(packHeader)), flushed: int64(len(packHeader)),
	}
	if err := p.writeIndex(k); err != nil {
		return err
	}
	f, err := replace(p.opts.disk, k.path, []byte(packHeader))
	if err != nil {
		return fmt.Errorf("store: %w", hint(err))
	}
	if k.file, err = newPackFile(f); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packs = append(p.packs, k)
	p.arrange()
	p.w.open, p.w.synced = k, 0
	p.w.next++
	return nil
}

// writeIndex replaces the index file of a pack by its table. It is not synced: a torn
// index shows in its checksum and is rebuilt.
func (p *Packs) writeIndex(k *pack) error {
	f, err := replace(p.opts.disk, p.indexPath(k.num), encodeIndex(k.sections, k.end))
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("store: %w", hint(err))
	}
	return nil
}

// useIndex gives up a pack's table for its index file.
func (p *Packs) useIndex(ctx context.Context, k *pack) error {
	x, err := p.openIndex(ctx, p.indexPath(k.num), k.file)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.index, k.sections, k.pending = x, nil, nil
	p.pool.join(x.file)
	return nil
}

// closeWriter syncs, once, and takes no more blocks.
func (p *Packs) closeWriter() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	var err error
	if p.w.open != nil || len(p.w.behind) > 0 {
		if err = p.w.failed; err == nil {
			err = p.sync()
		}
	}
	p.w.open, p.w.failed = nil, p.errClosed()
	return err
}

// IsFull reports whether the cause of an error is a disk without room.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func hint(err error) error {
	if IsFull(err) {
		return fmt.Errorf("%w; free some space and run it again", err)
	}
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; make it writable for this user", err)
	}
	return err
}
