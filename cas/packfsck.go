package cas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// A Damage is one fault of a store's files.
type Damage struct {
	File   string  // the pack or the index
	Offset int64   // where the block's section begins; 0 when the file itself is at fault
	CID    cid.Cid // the block, cid.Undef when the file itself is at fault
	Err    error   // wraps ErrCorrupt, or is an error of the disk

	alternate cid.Cid // the other codec, when the section's own head is damaged
}

// A Checked says how much Fsck read.
type Checked struct {
	Packs  int64 `json:"packs"`
	Blocks int64 `json:"blocks"`
	Bytes  int64 `json:"bytes"` // of blocks
}

// Fsck reads the whole store in dir, hashes every block on all cores, and calls report,
// one call at a time, for each fault: a block that is not what its name says, an index or
// a pack's header that is damaged. It writes nothing and may run beside a writer, of whose
// open pack it sees what is synced. An error means that the check did not end.
func Fsck(ctx context.Context, dir string, report func(Damage)) (Checked, error) {
	return FsckProgress(ctx, dir, report, func(done, total int64) {})
}

// FsckProgress is Fsck, and tells progress after each pack how many of the bytes of all
// packs were read.
func FsckProgress(ctx context.Context, dir string, report func(Damage), progress func(done, total int64)) (Checked, error) {
	p := &Packs{dir: dir}
	nums, err := p.list()
	if err != nil {
		return Checked{}, err
	}
	f := fsck{packs: p, report: report}
	if err := f.merged(ctx); err != nil {
		return f.checked, err
	}
	defer f.all.close() // it is only read
	sizes := make([]int64, len(nums))
	var done, total int64
	for i, num := range nums {
		if info, err := os.Lstat(p.packPath(num)); err == nil { // or it was collected meanwhile
			sizes[i] = info.Size()
			total += sizes[i]
		}
	}
	progress(0, total)
	for i, num := range nums {
		if err := f.pack(ctx, num); err != nil {
			return f.checked, err
		}
		done += sizes[i]
		progress(done, total)
	}
	return f.checked, nil
}

type fsck struct {
	packs *Packs
	all   *merged // nil: none, or damaged

	mu      sync.Mutex
	report  func(Damage)
	checked Checked
	lacking bool // the merged index was reported
}

func (f *fsck) damage(d Damage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report(d)
}

// merged checks the merged index, of which the store can do without.
func (f *fsck) merged(ctx context.Context) error {
	var err error
	f.all, err = f.packs.openMerged(ctx)
	if errors.Is(err, ErrCorrupt) {
		f.damage(Damage{File: f.packs.mergedPath(), Err: err})
		return nil
	}
	return err
}

// lacks reports, once, that the merged index does not have a block of a pack for which it
// speaks: nobody finds the block then, though all else is whole.
func (f *fsck) lacks(k *pack, r record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.lacking {
		f.lacking = true
		f.report(Damage{File: f.packs.mergedPath(), Err: fmt.Errorf("lacks the block at byte %d of %s: %w", r.offset, k.path, ErrCorrupt)})
	}
}

// A record is what an index says of a block.
type record struct {
	code   byte
	digest [32]byte
	offset int64
}

// pack checks one pack by its index, or by itself when the index cannot be used.
func (f *fsck) pack(ctx context.Context, num int) error {
	indexPath := f.packs.indexPath(num)
	file, err := openPackFile(f.packs.packPath(num), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // collected meanwhile
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer file.close()
	index, indexErr := f.packs.openIndex(ctx, indexPath, file)
	if index != nil {
		defer index.close()
	} else if !unusable(indexErr) {
		return fmt.Errorf("store: %w", indexErr)
	}
	f.checked.Packs++
	if err := checkHeader(file); err != nil {
		f.damage(Damage{File: file.path, Err: err})
	}
	if indexErr != nil && !errors.Is(indexErr, fs.ErrNotExist) {
		f.damage(Damage{File: indexPath, Err: indexErr})
	}
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if index == nil {
		return f.scan(ctx, file, size)
	}
	records, err := index.records()
	if err != nil {
		f.damage(Damage{File: indexPath, Err: err})
		return f.scan(ctx, file, size)
	}
	_, merged := f.all.entry(num, index.covered, index.sum)
	return f.blocks(ctx, &pack{num: num, path: file.path, file: file, merged: merged, end: size, flushed: size}, records)
}

// records copies what the index says, in the order of the pack.
func (x *packIndex) records() ([]record, error) {
	records := make([]record, 0, x.count)
	err := x.each(func(code byte, digest []byte, offset int64) {
		records = append(records, record{code, [32]byte(digest), offset})
	})
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
	return records, err
}

// scan checks a pack without an index: what is not whole has no name any more, and the
// releases tell what is missing.
func (f *fsck) scan(ctx context.Context, file *packFile, size int64) error {
	found, err := scan(ctx, file, int64(len(packHeader)), size, maxListed)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		f.damage(Damage{File: file.path, Err: err})
	}
	f.checked.Blocks += int64(len(found.sections))
	f.checked.Bytes += found.bytes
	if found.bad > 0 {
		f.damage(Damage{File: file.path, Err: fmt.Errorf("%d blocks do not match their names: %w", found.bad, ErrCorrupt)})
	}
	return nil
}

// blocks hashes what records name, a run of neighbours to a core.
func (f *fsck) blocks(ctx context.Context, k *pack, records []record) error {
	const run = 64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(records, run) {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return f.run(gctx, k, part) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (f *fsck) run(ctx context.Context, k *pack, records []record) error {
	var buf []byte
	tmp := new(scratch)
	var sum Checked
	for _, r := range records {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s, err := k.check(r, &buf, tmp)
		sum.Blocks++
		sum.Bytes += int64(s.size)
		if err != nil {
			f.damage(s.damage(k.path, r, err))
		}
		if k.merged && !f.all.has(k.num, r, tmp) {
			f.lacks(k, r)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked.Blocks += sum.Blocks
	f.checked.Bytes += sum.Bytes
	return nil
}

// check reads and hashes the block of a record. The section is zero when its head is
// not that of the block.
func (k *pack) check(r record, buf *[]byte, tmp *scratch) (section, error) {
	s, err := readHead(k, r.offset, k.end, tmp)
	if err != nil {
		return section{}, err
	}
	if s.key[2] != r.code || [32]byte(s.key[cidPrefix:]) != r.digest {
		return section{}, fmt.Errorf("another block at byte %d than the index says: %w", r.offset, ErrCorrupt)
	}
	data := slices.Grow((*buf)[:0], s.size)[:s.size]
	*buf = data
	if _, err := k.ReadAt(data, s.offset); err != nil {
		return s, cutShort(err)
	}
	c, err := keyCID(s.key)
	if err != nil {
		return s, err
	}
	return s, Check(c, data)
}

func (s section) damage(path string, r record, err error) Damage {
	d := Damage{File: path, Offset: r.offset, Err: err}
	name := func(codec byte) cid.Cid {
		key := sectionKey{1, codec, r.code, 32}
		copy(key[cidPrefix:], r.digest[:])
		c, _ := keyCID(key) // the form is right
		return c
	}
	if s.size > 0 || s.offset > 0 {
		d.CID = name(s.key[1])
	} else {
		d.CID, d.alternate = name(cid.Raw), name(cid.DagProtobuf)
	}
	return d
}
