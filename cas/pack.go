package cas

import (
	"fmt"
	"io"
	"io/fs"
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
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	k.size = fi.Size()
	if err := checkHeader(f); err != nil {
		return nil, nil, fmt.Errorf("pack %s: %w", k.path, err)
	}
	if rebuilt = p.loadIndex(k); rebuilt == nil {
		return k, nil, nil
	}
	found, err := scan(f, int64(len(packHeader)), k.size)
	if err != nil {
		return nil, nil, fmt.Errorf("pack %s: %w", k.path, err)
	}
	if found.bad > 0 {
		p.log.Warn("pack has damaged blocks", "pack", k.path, "blocks", found.bad)
	}
	k.sections, k.end, k.flushed = found.sections, found.end, found.end
	return k, rebuilt, nil
}

// loadIndex maps the index beside k; the error says why it cannot be used.
func (p *Packs) loadIndex(k *pack) error {
	path := p.indexPath(k.num)
	k.indexed, _ = os.Stat(path) // before it is opened: a newer one is then loaded later
	x, err := openIndex(path)
	if err != nil {
		return err
	}
	if x.covered < int64(len(packHeader)) || x.covered > k.size {
		x.close()
		return fmt.Errorf("index %s: speaks of %d bytes, the pack has %d: %w", path, x.covered, k.size, ErrCorrupt)
	}
	k.index, k.end, k.flushed = x, x.covered, x.covered
	return nil
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
	var fi fs.FileInfo
	if fi, err = os.Stat(k.path); err != nil {
		return true
	}
	return fi.Size() != k.size
}
