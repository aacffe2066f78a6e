package bucket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/car"
)

// Fsck lists the packs in use, compares each with its index, hashes every block, and calls report,
// one call at a time, for each damage: a block that does not hash to its CID, a damaged index, a
// missing pack. The names of files are those of objects. It writes nothing, and may run while a
// writer works. Wrong bytes are read again before they are reported: they may have been damaged on
// the way. An error means that the check is incomplete.
//
// progress, if not nil, is called with the bytes of the packs that are done and of all.
func (s *Store) Fsck(ctx context.Context, report func(pack.Damage), progress func(done, total int64)) (pack.Checked, error) {
	if err := s.Refresh(ctx); err != nil {
		return pack.Checked{}, err
	}
	l, err := s.list(ctx)
	if err != nil {
		return pack.Checked{}, err
	}
	f := fsck{s: s, report: report, progress: progress}
	if f.progress == nil {
		f.progress = func(done, total int64) {}
	}
	for _, o := range l.packs {
		f.total += o.Size
	}
	f.progress(0, f.total)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range slices.Sorted(maps.Keys(l.indexes)) {
		if l.marks[name].Name != "" {
			continue
		}
		g.Go(func() error { return f.pack(gctx, name, l.packs[name]) })
	}
	err = g.Wait()
	return f.checked, cmp.Or(err, ctx.Err())
}

type fsck struct {
	s *Store

	mu          sync.Mutex
	report      func(pack.Damage)
	progress    func(done, total int64)
	done, total int64
	checked     pack.Checked
}

func (f *fsck) damage(d pack.Damage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report(d)
}

// pack checks one pack and its index.
func (f *fsck) pack(ctx context.Context, name string, o Object) error {
	if o.Name == "" {
		err := fmt.Errorf("object %s/%s: missing, its index is there: %w", f.s, packObject(name), cas.ErrCorrupt)
		if _, _, readErr := f.s.Read(ctx, indexObject(name), int64(maxIndex)); errors.Is(readErr, fs.ErrNotExist) {
			return nil // both were removed since the list
		}
		f.damage(pack.Damage{File: packObject(name), Err: err})
		return nil
	}
	p, err := f.s.readIndex(ctx, name, o.Size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, cas.ErrCorrupt):
		f.damage(pack.Damage{File: indexObject(name), Err: err})
		return nil
	case err != nil:
		return err
	}
	sum, err := f.blocks(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since the list
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked.Packs++
	f.checked.Blocks += sum.Blocks
	f.checked.Bytes += sum.Bytes
	f.done += o.Size
	f.progress(f.done, f.total)
	return err
}

// checkRun is the number of bytes that are read at a time.
const checkRun = 4 << 20

// blocks checks the blocks of a pack, and that its sections are all that is in it.
func (f *fsck) blocks(ctx context.Context, p *packed) (sum pack.Checked, err error) {
	at := uint32(len(car.NoRoots))
	records := byOffset(p.records)
	for _, r := range records {
		if r.offset != at {
			f.damage(pack.Damage{File: indexObject(p.name), Err: fmt.Errorf("object %s/%s: byte %d of the pack is in no section: %w", f.s, indexObject(p.name), at, cas.ErrCorrupt)})
			break
		}
		at += r.size
	}
	for len(records) > 0 {
		from, n, bytes := records[0].offset, 0, uint32(0)
		for n < len(records) && (n == 0 || records[n].offset+records[n].size-from <= checkRun) {
			bytes = records[n].offset + records[n].size - from
			n++
		}
		run := [][]byte{make([]byte, bytes)}
		if err := f.s.ReadParts(ctx, p.object(), int64(from), run, func(int) {}); err != nil {
			return sum, err
		}
		for _, r := range records[:n] {
			if r.offset+r.size > from+bytes {
				continue // sections overlap: reported above
			}
			data, err := f.block(ctx, p, r, run[0][r.offset-from:][:r.size])
			sum.Blocks++
			sum.Bytes += int64(len(data))
			if errors.Is(err, cas.ErrCorrupt) {
				f.damage(pack.Damage{File: p.object(), Offset: int64(r.offset), CID: r.key.cid(), Err: err})
			} else if err != nil {
				return sum, err
			}
		}
		records = records[n:]
	}
	return sum, nil
}

// block checks a section. A wrong one is read again.
func (f *fsck) block(ctx context.Context, p *packed, r record, section []byte) ([]byte, error) {
	data, err := checkSection(section, r, r.key.cid())
	if err == nil {
		return data, nil
	}
	return f.s.readBlock(ctx, location{p, r}, r.key.cid())
}
