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
// offset above the lower placeBits are the position of the pack in a list, and that list is
// before the trailer, whose number is the length of the list. An entry of the list is valid
// only while the pack's own index has the checksum recorded there. The merged index adds
// nothing to the indexes of the packs: it may be missing, torn or outdated, and is written
// again when too many packs are not in it.
const (
	mergedName  = "packs.idx"
	mergedMark  = "PHASEPX1"
	mergedEntry = 8 + 8 + 8 + 32 // number, covered bytes, blocks, checksum of the pack's index
	placeBits   = 40
	maxPack     = 1 << placeBits // bytes
	maxLoose    = 16             // sealed packs that are not merged; with one more, all are merged
)

// merged is an open merged index.
type merged struct {
	index *packIndex
	info  os.FileInfo
	of    []mergedPack
	at    map[int]int // from the number of a pack to its position in of
	packs []*pack     // in the order of of; nil where the entry is not valid
}

// A mergedPack is one entry of the list of packs in a merged index.
type mergedPack struct {
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

// mostMerged returns the largest size of a merged index that is read.
func (p *Store) mostMerged() (int64, error) {
	nums, err := p.list()
	most := int64(mergedSlack)
	for _, num := range nums {
		info, err := os.Lstat(p.packPath(num))
		if err != nil {
			continue // removed in between
		}
		most += maxIndexOf(info.Size()) + mergedEntry
	}
	return most, err
}

func (m *merged) load(ctx context.Context, p *Store) error {
	tail, err := readTail(m.index.file)
	if err != nil {
		return err
	}
	most, err := p.mostMerged()
	if err != nil {
		return err
	}
	end := tail.size - int64(indexTrailer)
	if tail.mark != mergedMark || tail.number > maxPacks || int64(tail.number) > end/mergedEntry || tail.size > most {
		return errNoIndex
	}
	list := make([]byte, tail.number*mergedEntry)
	end -= int64(len(list))
	if _, err := m.index.file.ReadAt(list, end); err != nil {
		return cutShort(err)
	}
	for ; len(list) > 0; list = list[mergedEntry:] {
		m.of = append(m.of, mergedPack{
			num: int(binary.LittleEndian.Uint64(list)), covered: int64(binary.LittleEndian.Uint64(list[8:])),
			blocks: int64(binary.LittleEndian.Uint64(list[16:])), sum: [32]byte(list[24:]),
		})
	}
	m.packs, m.at = make([]*pack, len(m.of)), make(map[int]int, len(m.of))
	for i, of := range m.of {
		m.at[of.num] = i
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
func (m *merged) entry(num int, covered int64, sum [32]byte) (mergedPack, bool) {
	if m == nil {
		return mergedPack{}, false
	}
	i, ok := m.at[num]
	if !ok || m.of[i].covered != covered || m.of[i].sum != sum {
		return mergedPack{}, false
	}
	return m.of[i], true
}

// speaksFor returns the entry of pack num if it is valid. path is the index file of the pack.
func (m *merged) speaksFor(num int, path string) (mergedPack, bool) {
	if m == nil {
		return mergedPack{}, false
	}
	f, err := openPackFile(path, os.O_RDONLY)
	if err != nil {
		return mergedPack{}, false
	}
	defer f.close()
	tail, err := readTail(f)
	if err != nil || tail.mark != indexMark {
		return mergedPack{}, false
	}
	return m.entry(num, int64(tail.number), tail.sum)
}

// find calls try with every section that may be key's, until try returns true.
func (m *merged) find(key *sectionKey, tmp *scratch, try func(k *pack, offset int64) bool) (bool, error) {
	if m == nil {
		return false, nil
	}
	return m.index.find(key, tmp, func(place int64) bool {
		i := place >> placeBits
		return i < int64(len(m.packs)) && m.packs[i] != nil && try(m.packs[i], place&(1<<placeBits-1))
	})
}

// has reports whether the merged index has the record r of a pack that it covers.
func (m *merged) has(num int, r record, tmp *scratch) bool {
	key := sectionKey{2: r.code}
	copy(key[digestAt:], r.digest[:])
	ok, err := m.index.find(&key, tmp, func(place int64) bool {
		return place == int64(m.at[num])<<placeBits|r.offset
	})
	return ok && err == nil
}

// offsets returns the offsets of the sections of a pack that the merged index covers.
func (m *merged) offsets(num int) (offsets []int64, err error) {
	of := int64(m.at[num])
	err = m.index.each(func(_ byte, _ []byte, place int64) {
		if place>>placeBits == of {
			offsets = append(offsets, place&(1<<placeBits-1))
		}
	})
	return offsets, err
}

// readMerged returns p.all, or opens the merged index again if its file has changed. A damaged
// one is not used; a writer removes it.
func (p *Store) readMerged(ctx context.Context) (*merged, error) {
	now, err := os.Lstat(p.mergedPath())
	if err == nil && p.all != nil && os.SameFile(now, p.all.info) && now.Size() == p.all.info.Size() && now.ModTime().Equal(p.all.info.ModTime()) {
		return p.all, nil
	}
	m, err := p.openMerged(ctx)
	if errors.Is(err, cas.ErrCorrupt) {
		p.log.Warn("merged index unusable", "err", err)
		err = nil
		if p.lock != nil {
			err = p.opts.disk.remove(p.mergedPath())
		}
		if blocked(err) {
			err = nil // the store works without a merged index
		}
	}
	return m, err
}

// arrange finds out which packs the merged index covers. p.mu is held, or no other goroutine
// has p yet.
func (p *Store) arrange() {
	if p.all != nil {
		clear(p.all.packs)
	}
	p.loose = p.loose[:0]
	for _, k := range p.packs {
		if k.index != nil {
			if of, ok := p.all.entry(k.num, k.index.covered, k.index.sum); ok {
				k.index.close() // it was only read
				k.merged, k.blocks, k.index = true, int(of.blocks), nil
			}
		}
		if k.merged {
			p.all.packs[p.all.at[k.num]] = k
		} else {
			p.loose = append(p.loose, k)
		}
	}
}

// merge writes the merged index again when too many packs are not in it. An error is only
// logged, because the store works without a merged index.
func (p *Store) merge() {
	n := 0
	for _, k := range p.loose {
		if k.sections == nil {
			n++
		}
	}
	if n <= p.opts.loose {
		return
	}
	if err := p.writeMerged(); err != nil {
		p.log.Warn("indexes not merged; run fsck to find a damaged one", "packs", n, "err", err)
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
		return errors.Join(fmt.Errorf("store: %w", hint(err)), p.opts.disk.remove(path+".tmp"))
	}
	now, err := p.openMerged(context.Background())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.all
	p.all = now
	p.arrange()
	return old.close()
}

// merger writes one merged index from many indexes. If the existing merged index covers all of
// its packs, it is merged with the indexes of the other packs; otherwise the indexes of all
// packs are merged.
type merger struct {
	of      []mergedPack
	sources []source
	opened  []*packIndex // to be closed
}

// A source is an index and the number that is added to its offsets.
type source struct {
	index *packIndex
	base  int64
}

func (m *merger) close() {
	for _, x := range m.opened {
		x.close() // they were only read
	}
}

func (m *merger) gather(p *Store) error {
	old := p.all
	if old != nil && slices.Contains(old.packs, nil) {
		old = nil
	}
	if old != nil {
		m.of, m.sources = slices.Clone(old.of), []source{{old.index, 0}}
	}
	for _, k := range p.packs {
		x := k.index
		if k.sections != nil || k.end > maxPack || k.merged && old != nil || len(m.of) == maxPacks {
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
		m.sources = append(m.sources, source{x, int64(len(m.of)) << placeBits})
		m.of = append(m.of, mergedPack{num: k.num, covered: x.covered, blocks: int64(x.count), sum: x.sum})
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
	for _, of := range m.of {
		b = binary.LittleEndian.AppendUint64(b[:0], uint64(of.num))
		b = binary.LittleEndian.AppendUint64(b, uint64(of.covered))
		b = binary.LittleEndian.AppendUint64(b, uint64(of.blocks))
		out.Write(append(b, of.sum[:]...))
	}
	out.WriteString(mergedMark)
	out.Write(binary.LittleEndian.AppendUint64(b[:0], uint64(len(m.of))))
	if err := out.Flush(); err != nil {
		return err
	}
	return w.disk.writeAt(w.file, w.sum.Sum(nil), w.at)
}

// A cursor reads the records of one hash function from one index.
type cursor struct {
	source
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
				all = append(all, &cursor{source: s, code: code, left: k.count, r: s.index.reader(k)})
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
		return fmt.Errorf("index %s: %w", c.index.file.path, cutShort(err))
	}
	place := binary.LittleEndian.Uint64(c.record[32:])
	if place >= 1<<62 || c.base > 0 && place >= maxPack {
		return fmt.Errorf("index %s: offset %d: %w", c.index.file.path, place, cas.ErrCorrupt)
	}
	binary.LittleEndian.PutUint64(c.record[32:], place+uint64(c.base))
	return nil
}
