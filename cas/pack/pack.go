package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// A pack is one CAR file. Its sections are listed in one of three places: in the merged index
// (merged), in its own index (index), or in a table in memory (sections), which the open pack
// of a writer has, and a pack whose index was missing or damaged.
type pack struct {
	num          int
	path         string
	file         *packFile
	merged       bool                 // the merged index covers it
	index        *packIndex           // nil when merged or sections is used
	sections     map[sectionKey]int64 // offsets of heads
	blocks       int                  // number of sections, of a merged pack
	noIndex      bool                 // it has no index file because the disk is full
	indexBlocked bool                 // it has no index file because a folder has that name
	end          int64                // bytes of complete sections, from the beginning of the file

	indexed os.FileInfo // the index file when it was loaded, nil without one
	size    int64       // of the pack file when it was loaded

	flushed int64  // bytes in the file; those from flushed to end are in pending
	pending []byte // the tail of the open pack that is not written yet

	writeback int64 // bytes of the open pack whose writeback was started

	tableBlocks *atomic.Int64 // counts the blocks of sections, of a reader
}

// ReadAt reads from the file and, after its end, from pending.
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

// readWhole reads the section at an offset: its head, and its block into data. done is false
// when the block has another size than data; then only the head is read.
func (k *pack) readWhole(offset int64, data []byte, tmp *scratch) (s section, done bool, err error) {
	head := tmp.head[:car.HeadLen(len(data))]
	end := offset + int64(len(head)+len(data))
	if offset >= int64(len(packHeader)) && end <= k.flushed && k.file.readParts(offset, head, data) == nil {
		if s, err = parseHead(head, offset); err == nil && s.size == len(data) {
			return s, true, nil
		}
	}
	s, err = readHead(k, offset, k.end, tmp)
	return s, false, err
}

// find calls try with the offset of every section that may be key's, until try returns true.
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
	if k.tableBlocks != nil {
		k.tableBlocks.Add(-int64(len(k.sections)))
		k.tableBlocks = nil
	}
	err := k.file.close()
	if k.index != nil {
		err = errors.Join(err, k.index.close())
	}
	return err
}

// openPack opens a pack and its index. When the index is missing or damaged, openPack scans
// the pack into a table, and rebuilt says what is wrong with the index. grows is true for a
// pack that may be appended to: the merged index does not cover it.
func (p *Store) openPack(ctx context.Context, num int, grows bool) (k *pack, rebuilt, err error) {
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
		k.file.join(p.pool)
	}
	if k.index != nil {
		k.index.file.join(p.pool)
	}
	return k, rebuilt, nil
}

// loadPack reads the index first and the size of the pack after it: while a writer appends,
// the pack is then at least as long as its index says.
func (p *Store) loadPack(ctx context.Context, k *pack, grows bool) (rebuilt, err error) {
	if err := checkHeader(k.file); err != nil {
		return nil, err
	}
	path := p.indexPath(k.num)
	k.indexed, _ = os.Lstat(path) // nil when there is none
	covered := int64(-1)
	if m, ok := p.mergedIndex.entryOfFile(k.num, path); ok && !grows {
		k.merged, k.blocks, covered = true, int(m.blocks), m.covered
	} else if k.index, rebuilt = p.openIndex(ctx, path, k.file); k.index != nil {
		covered = k.index.covered
	} else if !needsScan(rebuilt) {
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
		rebuilt = fmt.Errorf("index %s: covers %d bytes, the pack has %d: %w", path, covered, k.size, cas.ErrCorrupt)
	}
	return rebuilt, p.scanPack(ctx, k)
}

// needsScan reports whether err says that an index is damaged or missing, so that the pack has
// to be scanned. Any other error, of the disk or the process, is not a reason to scan.
func needsScan(err error) bool {
	return errors.Is(err, cas.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// scanPack scans a pack and puts its sections into a table.
func (p *Store) scanPack(ctx context.Context, k *pack) error {
	if k.index != nil {
		if err := k.index.close(); err != nil {
			return err
		}
	}
	found, err := scan(ctx, k.file, int64(len(packHeader)), k.size, p.tableRoom())
	if err != nil {
		return err
	}
	if found.damaged > 0 {
		p.log.Warn("pack has damaged blocks", "pack", k.path, "blocks", found.damaged)
	}
	k.merged, k.index = false, nil
	k.sections, k.end, k.flushed = found.sections, found.end, found.end
	if p.opts.ReadOnly {
		k.tableBlocks = &p.tableBlocks
		p.tableBlocks.Add(int64(len(found.sections)))
	}
	return nil
}

// tableRoom is the largest number of blocks in one more table. A writer drops a table when it
// has written the index, so only the tables of a reader add up.
func (p *Store) tableRoom() int {
	if p.opts.ReadOnly {
		return int(maxListed - p.tableBlocks.Load())
	}
	return maxListed
}

// stale reports whether the index file of k, or the pack if it has no index, has changed since
// it was loaded.
func (p *Store) stale(k *pack) bool {
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
