package pack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/cas"
)

// The merged index packs.idx is one index over many packs, so that a search reads one file
// and not hundreds. It has the format of a pack's index, with two differences: the bits of an
// offset above the lower offsetBits are the position of the pack in a list, and that list is
// before the trailer, whose number is the length of the list. An entry of the list is valid
// only while the pack's own index has the checksum recorded there. The merged index adds
// nothing to the indexes of the packs: it may be missing, torn or outdated, and is written
// again when too many packs are not in it.
const (
	mergedName         = "packs.idx"
	mergedMark         = "PHASEPX1"
	mergedEntrySize    = 8 + 8 + 8 + 32 // number, covered bytes, blocks, checksum of the pack's index
	offsetBits         = 40
	maxPack            = 1 << offsetBits // bytes
	defaultMaxUnmerged = 16              // sealed packs that are not merged; with one more, all are merged
)

// merged is an open merged index.
type merged struct {
	index     *packIndex
	info      os.FileInfo
	entries   []mergedEntry
	positions map[int]int // from the number of a pack to its position in entries
	packs     []*pack     // in the order of entries; nil where the entry is not valid
}

// A mergedEntry is one entry of the list of packs in a merged index.
type mergedEntry struct {
	num             int
	covered, blocks int64
	sum             [32]byte
}

func (p *Store) mergedPath() string { return filepath.Join(p.dir, mergedName) }

// openMerged opens the merged index and reads it once, to check it. It returns nil when there
// is none. The error for a damaged one, and for one that is larger than the packs allow, wraps
// cas.ErrCorrupt.
func (p *Store) openMerged(ctx context.Context) (*merged, error) {
	path := p.mergedPath()
	f, err := openPackFile(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	m := &merged{index: &packIndex{file: f, samples: &p.samples}, info: f.info}
	if err := m.load(ctx, p); err != nil {
		return nil, errors.Join(fmt.Errorf("index %s: %w", path, err), m.close())
	}
	return m, nil
}

// maxMergedSize returns the largest size of a merged index that is read.
func (p *Store) maxMergedSize() (int64, error) {
	nums, err := p.list()
	most := int64(mergedSlack)
	for _, num := range nums {
		info, err := os.Lstat(p.packPath(num))
		if err != nil {
			continue // removed in between
		}
		most += maxIndexOf(info.Size()) + mergedEntrySize
	}
	return most, err
}

func (m *merged) load(ctx context.Context, p *Store) error {
	tail, err := readTail(m.index.file)
	if err != nil {
		return err
	}
	most, err := p.maxMergedSize()
	if err != nil {
		return err
	}
	end := tail.size - int64(indexTrailer)
	if tail.mark != mergedMark || tail.number > maxPacks || int64(tail.number) > end/mergedEntrySize || tail.size > most {
		return errNotIndex
	}
	list := make([]byte, tail.number*mergedEntrySize)
	end -= int64(len(list))
	if _, err := m.index.file.ReadAt(list, end); err != nil {
		return corruptIfShort(err)
	}
	for ; len(list) > 0; list = list[mergedEntrySize:] {
		m.entries = append(m.entries, mergedEntry{
			num: int(binary.LittleEndian.Uint64(list)), covered: int64(binary.LittleEndian.Uint64(list[8:])),
			blocks: int64(binary.LittleEndian.Uint64(list[16:])), sum: [32]byte(list[24:]),
		})
	}
	m.packs, m.positions = make([]*pack, len(m.entries)), make(map[int]int, len(m.entries))
	for i, e := range m.entries {
		m.positions[e.num] = i
	}
	m.index.sum = tail.sum
	return m.index.load(ctx, tail.size, end, maxSamples)
}

func (m *merged) close() error {
	if m == nil {
		return nil
	}
	return m.index.close()
}

// entry returns the entry of a pack if it is valid: if the pack's index, which covers covered
// bytes and has the checksum sum, is the one that was merged.
func (m *merged) entry(num int, covered int64, sum [32]byte) (mergedEntry, bool) {
	if m == nil {
		return mergedEntry{}, false
	}
	i, ok := m.positions[num]
	if !ok || m.entries[i].covered != covered || m.entries[i].sum != sum {
		return mergedEntry{}, false
	}
	return m.entries[i], true
}

// entryOfFile returns the entry of pack num if it is valid. path is the index file of the pack.
func (m *merged) entryOfFile(num int, path string) (mergedEntry, bool) {
	if m == nil {
		return mergedEntry{}, false
	}
	f, err := openPackFile(path, os.O_RDONLY)
	if err != nil {
		return mergedEntry{}, false
	}
	defer f.close()
	tail, err := readTail(f)
	if err != nil || tail.mark != indexMark {
		return mergedEntry{}, false
	}
	return m.entry(num, int64(tail.number), tail.sum)
}

// find calls try with every section that may be key's, until try returns true.
func (m *merged) find(key *sectionKey, tmp *scratch, try func(k *pack, offset int64) bool) (bool, error) {
	if m == nil {
		return false, nil
	}
	return m.index.find(key, tmp, func(location int64) bool {
		i := location >> offsetBits
		return i < int64(len(m.packs)) && m.packs[i] != nil && try(m.packs[i], location&(1<<offsetBits-1))
	})
}

// has reports whether the merged index has the record r of a pack that it covers.
func (m *merged) has(num int, r record, tmp *scratch) bool {
	ok, err := m.index.find(&r.key, tmp, func(location int64) bool {
		return location == int64(m.positions[num])<<offsetBits|r.offset
	})
	return ok && err == nil
}

// offsets returns the offsets of the sections of a pack that the merged index covers.
func (m *merged) offsets(num int) (offsets []int64, err error) {
	position := int64(m.positions[num])
	err = m.index.each(func(_ byte, _ []byte, location int64) {
		if location>>offsetBits == position {
			offsets = append(offsets, location&(1<<offsetBits-1))
		}
	})
	return offsets, err
}

// readMerged returns p.all, or opens the merged index again if its file has changed. A damaged
// one is not used; a writer removes it.
func (p *Store) readMerged(ctx context.Context) (*merged, error) {
	now, err := os.Lstat(p.mergedPath())
	if err == nil && p.mergedIndex != nil && os.SameFile(now, p.mergedIndex.info) && now.Size() == p.mergedIndex.info.Size() && now.ModTime().Equal(p.mergedIndex.info.ModTime()) {
		return p.mergedIndex, nil
	}
	m, err := p.openMerged(ctx)
	if errors.Is(err, cas.ErrCorrupt) {
		p.log.Warn("merged index unusable", "cause", err)
		err = nil
		if p.lock != nil {
			err = p.opts.disk.remove(p.mergedPath())
		}
		if isBlocked(err) {
			err = nil // the store works without a merged index
		}
	}
	return m, err
}
