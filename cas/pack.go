package cas

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// A pack is one CAR file and what is known of its sections: by a mapped index, or by a
// table in memory (the writer's open pack, or one whose index had to be rebuilt).
type pack struct {
	num      int
	path     string
	file     *os.File
	index    *packIndex           // nil when sections is used
	sections map[sectionKey]int64 // offsets of heads
	end      int64                // bytes of whole sections, the file's first part

	indexed os.FileInfo // the index file as it was loaded, nil without one
	size    int64       // of the pack file when it was loaded

	flushed int64  // bytes in the file; the rest, up to end, is pending
	pending []byte // the open pack's tail, not yet written
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

// find returns the section of key. What the index says is compared with the pack: a
// section with another name is none.
func (k *pack) find(key sectionKey) (section, bool) {
	var s section
	try := func(offset int64) bool {
		var err error
		s, err = readHead(k, offset, k.end)
		return err == nil && s.key == key
	}
	if k.index == nil {
		offset, ok := k.sections[key]
		return s, ok && try(offset)
	}
	var ok bool
	if err := guard(func() { ok = k.index.find(key, try) }); err != nil {
		return s, false
	}
	return s, ok
}

func (k *pack) count() int {
	if k.index != nil {
		return k.index.count
	}
	return len(k.sections)
}

func (k *pack) close() error {
	err := k.file.Close()
	if k.index != nil {
		if e := k.index.close(); err == nil {
			err = e
		}
	}
	return err
}

// openPack opens a pack and its index. When the index is missing or damaged, the pack is
// scanned and known by a table; rebuilt then says why.
func (p *Packs) openPack(num int, write bool) (k *pack, rebuilt, err error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(p.packPath(num), flag, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	k = &pack{num: num, path: f.Name(), file: f}
	if rebuilt, err = p.loadPack(k); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pack %s: %w", k.path, err), k.close())
	}
	return k, rebuilt, nil
}

// loadPack reads the index first and the pack's size after it: with a writer at work
// the pack is then the longer of the two.
func (p *Packs) loadPack(k *pack) (rebuilt, err error) {
	if err := checkHeader(k.file); err != nil {
		return nil, err
	}
	path := p.indexPath(k.num)
	k.indexed, _ = os.Stat(path) // nil when there is none
	k.index, rebuilt = openIndex(path)
	fi, err := k.file.Stat()
	if err != nil {
		return nil, err
	}
	k.size = fi.Size()
	if k.index != nil {
		if k.end = k.index.covered; k.end >= int64(len(packHeader)) && k.end <= k.size {
			k.flushed = k.end
			return nil, nil
		}
		rebuilt = fmt.Errorf("index %s: speaks of %d bytes, the pack has %d: %w", path, k.end, k.size, ErrCorrupt)
		err = k.index.close()
		if k.index = nil; err != nil {
			return nil, err
		}
	}
	found, err := scan(k.file, int64(len(packHeader)), k.size)
	if err != nil {
		return nil, err
	}
	if found.bad > 0 {
		p.log.Warn("pack has damaged blocks", "pack", k.path, "blocks", found.bad)
	}
	k.sections, k.end, k.flushed = found.sections, found.end, found.end
	return rebuilt, nil
}

// stale reports whether the index beside k, or the pack if it has none, is another now
// than when it was loaded.
func (p *Packs) stale(k *pack) bool {
	now, err := os.Stat(p.indexPath(k.num))
	if err == nil && k.indexed != nil {
		return !os.SameFile(now, k.indexed) || now.Size() != k.indexed.Size() || !now.ModTime().Equal(k.indexed.ModTime())
	}
	if err == nil || k.indexed != nil {
		return true
	}
	fi, err := os.Stat(k.path)
	return err != nil || fi.Size() != k.size
}
