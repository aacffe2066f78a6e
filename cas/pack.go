package cas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/ipfs/go-cid"
)

// A pack is one CAR file and what is known of its sections: by the merged index, by its
// own, or by a table in memory (the writer's open pack, or one whose index had to be rebuilt).
type pack struct {
	num      int
	path     string
	file     *packFile
	merged   bool                 // the merged index speaks for it
	index    *packIndex           // nil when it is merged or sections is used
	sections map[sectionKey]int64 // offsets of heads
	blocks   int                  // sections of a merged pack
	bare     bool                 // the disk has no room for the index of sections
	barred   bool                 // a folder has the name of that index
	end      int64                // bytes of whole sections, the file's first part

	indexed os.FileInfo // the index file as it was loaded, nil without one
	size    int64       // of the pack file when it was loaded

	flushed int64  // bytes in the file; the rest, up to end, is pending
	pending []byte // the open pack's tail, not yet written

	tabled *atomic.Int64 // where a reader's table is counted
}

// ReadAt reads from the file and, beyond it, from what is pending.
func (k *pack) ReadAt(b []byte, at int64) (int, error) {
	n := int(max(0, min(int64(len(b)), k.flushed-at)))
	if n > 0 {
		if m, err := k.file.ReadAt(b[:n], at); m < n {
			return m, err
		}
	}
	if n < len(b) && at+int64(n) < k.end {
		n += copy(b[n:], k.pending[at+int64(n)-k.flushed:])
	}
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// read reads the block of a section.
func (k *pack) read(c cid.Cid, s section, data []byte) error {
	if _, err := k.ReadAt(data, s.offset); err != nil {
		return fmt.Errorf("pack %s: block %s: %w", k.path, c, cutShort(err))
	}
	return nil
}

// find calls try for every section that may be key's, until it says true.
func (k *pack) find(key *sectionKey, tmp *scratch, try func(k *pack, offset int64) bool) (bool, error) {
	if k.index != nil {
		return k.index.find(key, tmp, func(offset int64) bool { return try(k, offset) })
	}
	offset, ok := k.sections[*key]
	return ok && try(k, offset), nil
}

func (k *pack) count() int {
	switch {
	case k.merged:
		return k.blocks
	case k.index != nil:
		return k.index.count
	}
	return len(k.sections)
}

func (k *pack) close() error {
	if k.tabled != nil {
		k.tabled.Add(-int64(len(k.sections)))
		k.tabled = nil
	}
	err := k.file.close()
	if k.index != nil {
		err = errors.Join(err, k.index.close())
	}
	return err
}

// openPack opens a pack and its index. When the index is missing or damaged, the pack is
// scanned and known by a table; rebuilt then says why. For a pack that may grow the merged
// index does not speak.
func (p *Packs) openPack(ctx context.Context, num int, grows bool) (k *pack, rebuilt, err error) {
	flag := os.O_RDONLY
	if grows {
		flag = os.O_RDWR
	}
	f, err := openPackFile(p.packPath(num), flag)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	k = &pack{num: num, path: f.path, file: f}
	if rebuilt, err = p.loadPack(ctx, k, grows); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pack %s: %w", k.path, err), k.close())
	}
	if !grows {
		p.pool.join(k.file)
	}
	if k.index != nil {
		p.pool.join(k.index.file)
	}
	return k, rebuilt, nil
}

// loadPack reads the index first and the pack's size after it: with a writer at work
// the pack is then the longer of the two.
func (p *Packs) loadPack(ctx context.Context, k *pack, grows bool) (rebuilt, err error) {
	if err := checkHeader(k.file); err != nil {
		return nil, err
	}
	path := p.indexPath(k.num)
	k.indexed, _ = os.Lstat(path) // nil when there is none
	covered := int64(-1)
	if m, ok := p.all.speaksFor(k.num, path); ok && !grows {
		k.merged, k.blocks, covered = true, int(m.blocks), m.covered
	} else if k.index, rebuilt = p.openIndex(ctx, path, k.file); k.index != nil {
		covered = k.index.covered
	} else if !unusable(rebuilt) {
		return nil, rebuilt
	}
	if k.size, err = k.file.Size(); err != nil {
		return nil, err
	}
	if rebuilt == nil {
		if covered >= int64(len(packHeader)) && covered <= k.size {
			k.end, k.flushed = covered, covered
			return nil, nil
		}
		rebuilt = fmt.Errorf("index %s: speaks of %d bytes, the pack has %d: %w", path, covered, k.size, ErrCorrupt)
	}
	return rebuilt, p.scanPack(ctx, k)
}

// unusable reports whether an index is damaged or not there, so that its pack speaks for
// itself. An error of the disk or of the process is no such thing.
func unusable(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// scanPack makes a table of what is in the pack itself.
func (p *Packs) scanPack(ctx context.Context, k *pack) error {
	if k.index != nil {
		if err := k.index.close(); err != nil {
			return err
		}
	}
	found, err := scan(ctx, k.file, int64(len(packHeader)), k.size, p.tableRoom())
	if err != nil {
		return err
	}
	if found.bad > 0 {
		p.log.Warn("pack has damaged blocks", "pack", k.path, "blocks", found.bad)
	}
	k.merged, k.index = false, nil
	k.sections, k.end, k.flushed = found.sections, found.end, found.end
	if p.opts.ReadOnly {
		k.tabled = &p.tabled
		p.tabled.Add(int64(len(found.sections)))
	}
	return nil
}

// tableRoom is how many blocks the table of one more pack may have. A writer's goes away
// when its index is written.
func (p *Packs) tableRoom() int {
	if p.opts.ReadOnly {
		return int(maxListed - p.tabled.Load())
	}
	return maxListed
}

// stale reports whether the index beside k, or the pack if it has none, is another now
// than when it was loaded.
func (p *Packs) stale(k *pack) bool {
	now, err := os.Lstat(p.indexPath(k.num))
	if err == nil && k.indexed != nil {
		return !os.SameFile(now, k.indexed) || now.Size() != k.indexed.Size() || !now.ModTime().Equal(k.indexed.ModTime())
	}
	if err == nil || k.indexed != nil {
		return true
	}
	fi, err := os.Lstat(k.path)
	return err != nil || fi.Size() != k.size
}
