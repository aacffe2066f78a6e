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
	"os"
	"slices"

	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"

	"github.com/phaseboot/phaseboot/cas"
)

// mergedSlack is added to the largest size of a merged index over the packs in the folder, in
// bytes: the index may have entries of packs that were removed.
const mergedSlack = 64 << 20

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
			x.file.join(p.pool)
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
