package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A Collected is the result of Collect. Bytes are those of sections in packs.
type Collected struct {
	Packs     int64 `json:"packs"`                   // rewritten or removed
	Blocks    int64 `json:"blocks"`                  // removed
	Bytes     int64 `json:"bytes"`                   // removed
	LeftBytes int64 `json:"left_bytes"`              // of blocks that are not needed, in packs that were not rewritten
	Waiting   int64 `json:"waiting_bytes,omitempty"` // of replaced packs that stay for a grace, in an object store
}

// Collect removes the blocks for which keep returns false (garbage collection). A pack with
// less than a quarter of garbage stays as it is. Of any other pack, the kept blocks are
// checked, written to a new pack and synced; then the old pack is removed. So a crash loses
// no block, and a reader finds a block in the old pack or in the new one. It needs disk space
// for one pack. A pack with a damaged block that is to be kept is not changed; the error names
// it.
//
// If progress is not nil, it is called after each pack with the number of bytes of the packs
// that are done and of all packs.
func (p *Store) Collect(ctx context.Context, keep func(cid.Cid) bool, progress func(done, total int64)) (Collected, error) {
	if progress == nil {
		progress = func(done, total int64) {}
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	var sum Collected
	if err := p.checkWritable(ctx); err != nil {
		return sum, err
	}
	if p.w.open != nil {
		if err := p.seal(); err != nil {
			return sum, err
		}
	}
	packs := slices.Clone(p.packs)
	var done, total int64
	for _, k := range packs {
		total += k.end
	}
	var errs error
	for _, k := range packs {
		progress(done, total)
		done += k.end
		if err := p.checkReady(ctx); err != nil {
			return sum, errors.Join(errs, err)
		}
		err := p.collect(ctx, k, keep, &sum)
		if err != nil && !errors.Is(err, cas.ErrCorrupt) {
			return sum, errors.Join(errs, err)
		}
		errs = errors.Join(errs, err)
	}
	progress(total, total)
	return sum, errors.Join(errs, p.opts.disk.syncDir(p.dir))
}

// Clear removes all packs and returns the number of their bytes. It reads and writes no pack,
// so it works on a full disk.
func (p *Store) Clear(ctx context.Context) (bytes int64, err error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.checkWritable(ctx); err != nil {
		return 0, err
	}
	p.w.open = nil
	for _, k := range slices.Clone(p.packs) {
		bytes += k.end
		err = errors.Join(err, p.remove(k))
	}
	return bytes, errors.Join(err, p.opts.disk.syncDir(p.dir))
}

// WouldCollect returns the result that Collect would have now. It changes nothing, and a
// ReadOnly store can do it.
func (p *Store) WouldCollect(ctx context.Context, keep func(cid.Cid) bool) (Collected, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var sum Collected
	if p.closed {
		return sum, p.errClosed()
	}
	for _, k := range p.packs {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		plan, err := p.plan(k, keep)
		if err != nil {
			return sum, err
		}
		sum.count(plan)
	}
	return sum, nil
}

// A collectPlan is the plan for one pack.
type collectPlan struct {
	kept    []section // to be kept
	blocks  int64     // to be removed
	garbage int64     // bytes to be removed
	rewrite bool      // rewrite the pack, or remove it if no block is kept
}

func (p *Store) plan(k *pack, keep func(cid.Cid) bool) (plan collectPlan, err error) {
	sections, err := p.sections(k)
	if err != nil {
		return plan, fmt.Errorf("pack %s: %w", k.path, err)
	}
	var kept int64
	for _, s := range sections {
		if keep(s.key.cid()) {
			plan.kept = append(plan.kept, s)
			kept += sectionLen(s.size)
		}
	}
	plan.blocks = int64(len(sections) - len(plan.kept))
	plan.garbage = max(0, k.end-int64(len(packHeader))-kept)
	littleGarbage := len(plan.kept) > 0 && plan.garbage*4 < k.end
	plan.rewrite = !littleGarbage && (plan.blocks > 0 || len(sections) == 0)
	return plan, nil
}

func (c *Collected) count(p collectPlan) {
	if !p.rewrite {
		c.LeftBytes += p.garbage
		return
	}
	c.Packs++
	c.Blocks += p.blocks
	c.Bytes += p.garbage
}

// collect rewrites or removes one pack if its plan says so.
func (p *Store) collect(ctx context.Context, k *pack, keep func(cid.Cid) bool, sum *Collected) error {
	plan, err := p.plan(k, keep)
	if err != nil {
		return err
	}
	if !plan.rewrite {
		sum.count(plan)
		return nil
	}
	for _, s := range plan.kept {
		if err := p.move(ctx, k, s); err != nil {
			return err
		}
	}
	if err := p.sync(); err != nil {
		return err
	}
	sum.count(plan)
	return p.remove(k)
}

// move writes a block of k to the open pack, unless another pack has an undamaged copy.
func (p *Store) move(ctx context.Context, k *pack, s section) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var buf []byte
	p.mu.RLock()
	ok, err := p.search(s.key, headOnly, func(other *pack, at section) bool {
		if other == k {
			return false
		}
		_, err := at.readChecked(other, &buf)
		return err == nil
	})
	p.mu.RUnlock()
	if ok || err != nil {
		return err
	}
	data, err := s.readChecked(k, &buf)
	if err != nil {
		return fmt.Errorf("pack %s: %w; run fsck with --repair first", k.path, err)
	}
	return p.add(s.key, data)
}

// remove removes a pack. It removes the pack file before the index: the next writer deletes
// an index without a pack, but would scan and list a pack without an index.
func (p *Store) remove(k *pack) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packs = slices.DeleteFunc(p.packs, func(other *pack) bool { return other == k })
	p.w.unsynced = slices.DeleteFunc(p.w.unsynced, func(other *pack) bool { return other == k })
	p.updateMerged()
	err := errors.Join(k.close(), p.opts.disk.remove(k.path))
	if e := p.opts.disk.remove(p.indexPath(k.num)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// sections returns the sections of a pack in the order of their offsets. The error wraps
// cas.ErrCorrupt when the index lists an offset where no section is.
func (p *Store) sections(k *pack) ([]section, error) {
	offsets, err := p.offsets(k)
	if err != nil {
		return nil, err
	}
	slices.Sort(offsets)
	tmp := new(scratch)
	sections := make([]section, len(offsets))
	for i, offset := range offsets {
		if sections[i], err = readHead(k, offset, k.end, tmp); err != nil {
			return nil, err
		}
	}
	return sections, nil
}

// offsets returns the offsets of the sections of a pack, in no order. The offsets of a merged
// pack whose own index is damaged come from the merged index.
func (p *Store) offsets(k *pack) ([]int64, error) {
	if k.sections != nil {
		return slices.Collect(maps.Values(k.sections)), nil
	}
	x := k.index
	if k.merged {
		var err error
		if x, err = p.openIndex(context.Background(), p.indexPath(k.num), k.file); err != nil {
			return p.mergedIndex.offsets(k.num)
		}
		defer x.close()
	}
	offsets := make([]int64, 0, x.count)
	err := x.each(func(_ byte, _ []byte, offset int64) { offsets = append(offsets, offset) })
	return offsets, err
}

// Each calls f for every block that the store lists, pack by pack, with the number of bytes of
// its section. A block may be in two packs.
func (p *Store) Each(ctx context.Context, f func(c cid.Cid, bytes int64) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return p.errClosed()
	}
	for _, k := range p.packs {
		sections, err := p.sections(k)
		if err != nil {
			return fmt.Errorf("pack %s: %w", k.path, err)
		}
		for _, s := range sections {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(s.key.cid(), sectionLen(s.size)); err != nil {
				return err
			}
		}
	}
	return nil
}
