package pack

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"

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

// mergedSlack is added to the largest size of a merged index over the packs in the folder, in
// bytes: the index may have entries of packs that were removed.
const mergedSlack = 64 << 20

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
	key := sectionKey{2: r.code}
	copy(key[digestAt:], r.digest[:])
	ok, err := m.index.find(&key, tmp, func(location int64) bool {
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

// updateMerged finds out which packs the merged index covers. p.mu is held, or no other
// goroutine has p yet.
func (p *Store) updateMerged() {
	if p.mergedIndex != nil {
		clear(p.mergedIndex.packs)
	}
	p.unmerged = p.unmerged[:0]
	for _, k := range p.packs {
		if k.index != nil {
			if e, ok := p.mergedIndex.entry(k.num, k.index.covered, k.index.sum); ok {
				k.index.close() // it was only read
				k.merged, k.blocks, k.index = true, int(e.blocks), nil
			}
		}
		if k.merged {
			p.mergedIndex.packs[p.mergedIndex.positions[k.num]] = k
		} else {
			p.unmerged = append(p.unmerged, k)
		}
	}
}

// merge writes the merged index again when too many packs are not in it. An error is only
// logged, because the store works without a merged index.
func (p *Store) merge() {
	n := 0
	for _, k := range p.unmerged {
		if k.sections == nil {
			n++
		}
	}
	if n <= p.opts.maxUnmerged {
		return
	}
	if err := p.writeMerged(); err != nil {
		p.log.Warn("indexes not merged", "packs", n, "cause", err, "remedy", "fsck finds a damaged index")
	}
}

func (p *Store) writeMerged() error {
	m := merger{}
	defer m.close()
	if err := m.gather(p); err != nil {
		return err
	}
	path := p.mergedPath()
	f, err := p.opts.disk.create(path + ".tmp")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	err = errors.Join(m.write(&diskWriter{disk: p.opts.disk, file: f, sum: blake3.New()}), f.Close())
	if err == nil {
		err = p.opts.disk.rename(path+".tmp", path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store: %w", withRemedy(err)), p.opts.disk.remove(path+".tmp"))
	}
	now, err := p.openMerged(context.Background())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.mergedIndex
	p.mergedIndex = now
	p.updateMerged()
	return old.close()
}

// merger writes one merged index from many indexes. If the existing merged index covers all of
// its packs, it is merged with the indexes of the other packs; otherwise the indexes of all
// packs are merged.
type merger struct {
	entries []mergedEntry
	sources []mergeSource
	opened  []*packIndex // to be closed
}

// A source is an index and the number that is added to its offsets.
type mergeSource struct {
	index *packIndex
	base  int64
}

func (m *merger) close() {
	for _, x := range m.opened {
		x.close() // they were only read
	}
}

func (m *merger) gather(p *Store) error {
	old := p.mergedIndex
	if old != nil && slices.Contains(old.packs, nil) {
		old = nil
	}
	if old != nil {
		m.entries, m.sources = slices.Clone(old.entries), []mergeSource{{old.index, 0}}
	}
	for _, k := range p.packs {
		x := k.index
		if k.sections != nil || k.end > maxPack || k.merged && old != nil || len(m.entries) == maxPacks {
			continue
		}
		if k.merged {
			var err error
			if x, err = p.openIndex(context.Background(), p.indexPath(k.num), k.file); err != nil {
				return err
			}
			p.pool.join(x.file)
			m.opened = append(m.opened, x)
		}
		m.sources = append(m.sources, mergeSource{x, int64(len(m.entries)) << offsetBits})
		m.entries = append(m.entries, mergedEntry{num: k.num, covered: x.covered, blocks: int64(x.count), sum: x.sum})
	}
	return nil
}

// diskWriter appends to a file and hashes the bytes.
type diskWriter struct {
	disk disk
	file *os.File
	at   int64
	sum  *blake3.Hasher
}

func (w *diskWriter) Write(b []byte) (int, error) {
	if err := w.disk.writeAt(w.file, b, w.at); err != nil {
		return 0, err
	}
	w.at += int64(len(b))
	return w.sum.Write(b)
}

func (m *merger) write(w *diskWriter) error {
	out := bufio.NewWriterSize(w, flushAt) // its first error comes back from Flush
	b := append([]byte(indexCodec), 0, 0, 0, 0)
	var buckets []cursors
	for _, code := range []byte{mh.SHA2_256, mh.BLAKE3} {
		if c := m.cursors(code); len(c) > 0 {
			buckets = append(buckets, c)
			b[len(indexCodec)]++
		}
	}
	out.Write(b)
	for _, c := range buckets {
		if err := c.merge(out); err != nil {
			return err
		}
	}
	for _, e := range m.entries {
		b = binary.LittleEndian.AppendUint64(b[:0], uint64(e.num))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.covered))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.blocks))
		out.Write(append(b, e.sum[:]...))
	}
	out.WriteString(mergedMark)
	out.Write(binary.LittleEndian.AppendUint64(b[:0], uint64(len(m.entries))))
	if err := out.Flush(); err != nil {
		return err
	}
	return w.disk.writeAt(w.file, w.sum.Sum(nil), w.at)
}

// A cursor reads the records of one hash function from one index.
type cursor struct {
	mergeSource
	code   byte
	left   int
	r      *bufio.Reader
	record [indexRecord]byte
}

// cursors is a heap; the cursor with the smallest digest is first.
type cursors []*cursor

func (c cursors) Len() int           { return len(c) }
func (c cursors) Less(i, j int) bool { return bytes.Compare(c[i].record[:32], c[j].record[:32]) < 0 }
func (c cursors) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)        { *c = append(*c, x.(*cursor)) }
func (c *cursors) Pop() any {
	old := *c
	*c = old[:len(old)-1]
	return old[len(old)-1]
}

func (m *merger) cursors(code byte) cursors {
	var all cursors
	for _, s := range m.sources {
		for _, k := range s.index.buckets {
			if k.code == code {
				all = append(all, &cursor{mergeSource: s, code: code, left: k.count, r: s.index.reader(k)})
			}
		}
	}
	return all
}

// merge writes a bucket of the records of all cursors, in order.
func (c cursors) merge(out *bufio.Writer) error {
	n := 0
	for _, one := range c {
		n += one.left
		if err := one.next(); err != nil {
			return err
		}
	}
	out.Write(appendBucket(nil, c[0].code, n))
	for heap.Init(&c); len(c) > 0; {
		least := c[0]
		if _, err := out.Write(least.record[:]); err != nil {
			return err
		}
		if least.left == 0 {
			heap.Pop(&c)
			continue
		}
		if err := least.next(); err != nil {
			return err
		}
		heap.Fix(&c, 0)
	}
	return nil
}

// next reads the next record.
func (c *cursor) next() error {
	c.left--
	if _, err := io.ReadFull(c.r, c.record[:]); err != nil {
		return fmt.Errorf("index %s: %w", c.index.file.path, corruptIfShort(err))
	}
	location := binary.LittleEndian.Uint64(c.record[32:])
	if location >= 1<<62 || c.base > 0 && location >= maxPack {
		return fmt.Errorf("index %s: offset %d: %w", c.index.file.path, location, cas.ErrCorrupt)
	}
	binary.LittleEndian.PutUint64(c.record[32:], location+uint64(c.base))
	return nil
}
