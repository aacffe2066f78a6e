package pack

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

	"github.com/phaseboot/phaseboot/cas"
)

// A Damage is one damaged block or file that Fsck found.
type Damage struct {
	File   string  // path of the pack or the index
	Offset int64   // of the block's section in File; 0 when no block is named
	CID    cid.Cid // the damaged block; cid.Undef when an index or a header is damaged
	Err    error   // wraps cas.ErrCorrupt, or is an error of the disk

	alternate cid.Cid // CID with the other codec, when the head of the section is damaged
}

// A Checked is the amount that Fsck has read.
type Checked struct {
	Packs  int64 `json:"packs"`
	Blocks int64 `json:"blocks"`
	Bytes  int64 `json:"bytes"` // of blocks
}

// Fsck reads the whole store in dir, hashes every block on all cores, and calls report, one
// call at a time, for each damage: a block that does not hash to its CID, a damaged index, a
// damaged header of a pack. It writes nothing. It may run while a writer works, and then
// checks the synced part of the open pack. An error means that the check is incomplete.
//
// If progress is not nil, it is called after each pack with the number of bytes of the packs
// that are done and of all packs.
func Fsck(ctx context.Context, dir string, report func(Damage), progress func(done, total int64)) (Checked, error) {
	if progress == nil {
		progress = func(done, total int64) {}
	}
	p := &Store{dir: dir}
	nums, err := p.list()
	if err != nil {
		return Checked{}, err
	}
	f := fsck{packs: p, report: report}
	if err := f.merged(ctx); err != nil {
		return f.checked, err
	}
	defer f.mergedIndex.close() // it is only read
	sizes := make([]int64, len(nums))
	var done, total int64
	for i, num := range nums {
		if info, err := os.Lstat(p.packPath(num)); err == nil { // else it was removed in between
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
	packs       *Store
	mergedIndex *merged // nil: none, or damaged

	mu      sync.Mutex
	report  func(Damage)
	checked Checked
	missing sync.Once // reportMissing was called
}

func (f *fsck) damage(d Damage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report(d)
}

// merged opens and checks the merged index. The check goes on without it.
func (f *fsck) merged(ctx context.Context) error {
	var err error
	f.mergedIndex, err = f.packs.openMerged(ctx)
	if errors.Is(err, cas.ErrCorrupt) {
		f.damage(Damage{File: f.packs.mergedPath(), Err: err})
		return nil
	}
	return err
}

// reportMissing reports, once for a store, that the merged index has no record of a block of a pack
// that it covers: a search does not find that block.
func (f *fsck) reportMissing(k *pack, r record) {
	f.missing.Do(func() {
		f.damage(Damage{File: f.packs.mergedPath(), Err: fmt.Errorf("lacks the block at byte %d of %s: %w", r.offset, k.path, cas.ErrCorrupt)})
	})
}

// A record is the record of a block in an index. An index has no codecs: the codec of key is 0.
type record struct {
	key    sectionKey
	offset int64
}

// withCodec returns the key of the block if it has a codec.
func (r record) withCodec(codec byte) sectionKey {
	r.key[1] = codec
	return r.key
}

// pack checks the blocks of one pack that its index lists. Without a usable index it scans the
// pack.
func (f *fsck) pack(ctx context.Context, num int) error {
	indexPath := f.packs.indexPath(num)
	file, err := openPackFile(f.packs.packPath(num), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed in between
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer file.close()
	index, indexErr := f.packs.openIndex(ctx, indexPath, file)
	if index != nil {
		defer index.close()
	} else if !needsScan(indexErr) {
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
	_, merged := f.mergedIndex.entry(num, index.covered, index.sum)
	return f.blocks(ctx, &pack{num: num, path: file.path, file: file, merged: merged, end: size, flushed: size}, records)
}

// records returns the records of the index in the order of their offsets.
func (x *packIndex) records() ([]record, error) {
	records := make([]record, 0, x.count)
	err := x.each(func(code byte, digest []byte, offset int64) {
		r := record{sectionKey{0: 1, 2: code, 3: 32}, offset}
		copy(r.key[digestAt:], digest)
		records = append(records, r)
	})
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
	return records, err
}

// scan checks a pack without an index. The CID of a damaged block is not known here; the
// caller compares the releases with the store to find the missing blocks.
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
	if found.damaged > 0 {
		f.damage(Damage{File: file.path, Err: fmt.Errorf("%d blocks do not hash to their CIDs: %w", found.damaged, cas.ErrCorrupt)})
	}
	return nil
}

// blocks checks the blocks of records, in runs of neighbours, on all cores.
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

// run checks the blocks of some records.
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
		if k.merged && !f.mergedIndex.has(k.num, r, tmp) {
			f.reportMissing(k, r)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked.Blocks += sum.Blocks
	f.checked.Bytes += sum.Bytes
	return nil
}

// check reads the block of a record and checks its hash. The returned section is zero when the
// head at that offset is not that of the block.
func (k *pack) check(r record, buf *[]byte, tmp *scratch) (section, error) {
	s, err := readHead(k, r.offset, k.end, tmp)
	if err != nil {
		return section{}, err
	}
	if s.key != r.withCodec(s.key[1]) {
		return section{}, fmt.Errorf("another block at byte %d than the index says: %w", r.offset, cas.ErrCorrupt)
	}
	_, err = s.readChecked(k, buf)
	return s, err
}

// damage returns the Damage of a block. Without a readable head the codec of its CID is not
// known: then CID and alternate are the two possible ones.
func (s section) damage(path string, r record, err error) Damage {
	d := Damage{File: path, Offset: r.offset, Err: err}
	if s.size > 0 || s.offset > 0 {
		d.CID = s.key.cid()
	} else {
		d.CID, d.alternate = r.withCodec(cid.Raw).cid(), r.withCodec(cid.DagProtobuf).cid()
	}
	return d
}
