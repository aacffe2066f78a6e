package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/car"
)

// leftoverGrace is the least time after which an object that no pack needs is removed, such as the
// pack of a writer that was killed: another writer on a server without conditional PUT may be about
// to write its index.
const leftoverGrace = time.Hour

// Collect removes the blocks for which keep returns false (garbage collection). A pack with less
// than a quarter of garbage stays as it is. Of any other pack, the kept blocks are hashed and
// written to new packs; when those are stored, the old pack is marked as replaced. Collect removes
// packs that were marked longer ago than the grace, and what killed writers left. So a reader finds
// a block in the old pack or in the new one, and one that has an old list goes on reading.
//
// A block that keep wants and only marked packs have is written to a new pack before they are
// removed: a release that was added while another process collected may need it. A pack with a
// damaged block that is to be kept is not replaced; the error names it. On a server that does not heed
// conditions, where another writer may work at the same time, a grace of less than an hour is an error.
//
// progress, if not nil, is called with the bytes of the packs that are done and of all.
func (s *Store) Collect(ctx context.Context, keep func(cid.Cid) bool, progress func(done, total int64)) (pack.Collected, error) {
	if progress == nil {
		progress = func(done, total int64) {}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	var sum pack.Collected
	if err := s.writable(ctx); err != nil {
		return sum, err
	}
	if !s.lease.guarded && s.opts.Grace < leftoverGrace {
		return sum, fmt.Errorf("store %s: a grace of %s is too short for an object store that does not heed If-None-Match and If-Match (%w); use %s or more", s, s.opts.Grace, fs.ErrInvalid, leftoverGrace)
	}
	if err := s.sync(ctx); err != nil {
		return sum, err
	}
	if err := s.Refresh(ctx); err != nil {
		return sum, err
	}
	plans := s.plan(keep)
	var done, total int64
	for _, p := range plans {
		total += p.pack.size
	}
	var replaced []*packed
	var errs error
	for _, p := range plans {
		progress(done, total)
		done += p.pack.size
		err := s.move(ctx, p.moved)
		switch {
		case err != nil && !errors.Is(err, cas.ErrCorrupt):
			return sum, errors.Join(errs, err)
		case err != nil:
			errs = errors.Join(errs, err)
		case !p.pack.marked.IsZero():
		case p.replace:
			replaced = append(replaced, p.pack)
			sum.Packs++
			sum.Blocks += p.blocks
			sum.Bytes += p.garbage
		default:
			sum.LeftBytes += p.garbage
		}
	}
	if err := s.sync(ctx); err != nil {
		return sum, errors.Join(errs, err)
	}
	for _, p := range replaced {
		if err := s.Write(ctx, markObject(p.name), []byte("replaced\n"), bytesType); err != nil {
			return sum, errors.Join(errs, err)
		}
	}
	progress(total, total)
	if errs != nil {
		return sum, errs // a marked pack may have the only good copy of a block
	}
	var err error
	if sum.Waiting, err = s.removeOld(ctx); err != nil {
		return sum, err
	}
	return sum, s.Refresh(ctx)
}

// WouldCollect returns the result that Collect would have now, without removing what is marked.
func (s *Store) WouldCollect(ctx context.Context, keep func(cid.Cid) bool) (pack.Collected, error) {
	var sum pack.Collected
	if err := s.Refresh(ctx); err != nil {
		return sum, err
	}
	for _, p := range s.plan(keep) {
		switch {
		case !p.pack.marked.IsZero():
			sum.Waiting += p.pack.size
		case p.replace:
			sum.Packs++
			sum.Blocks += p.blocks
			sum.Bytes += p.garbage
			sum.Waiting += p.pack.size
		default:
			sum.LeftBytes += p.garbage
		}
	}
	return sum, nil
}

// A packPlan is the plan for one pack.
type packPlan struct {
	pack    *packed
	moved   []location // to be written to new packs
	blocks  int64      // to be removed
	garbage int64      // bytes of them
	replace bool
}

// plan plans for all packs. A block is moved unless a pack that stays has it, and once.
func (s *Store) plan(keep func(cid.Cid) bool) []packPlan {
	var plans []packPlan
	stays, wanted := map[key]bool{}, make([][]record, 0)
	for _, p := range s.all() {
		plan, kept := packPlan{pack: p}, []record(nil)
		for _, r := range byOffset(p.records) {
			if keep(r.key.cid()) {
				kept = append(kept, r)
				continue
			}
			plan.blocks++
			plan.garbage += int64(r.size)
		}
		littleGarbage := len(kept) > 0 && plan.garbage*4 < p.size
		plan.replace = !littleGarbage && (plan.blocks > 0 || len(p.records) == 0)
		if !plan.replace && p.marked.IsZero() {
			for _, r := range kept {
				stays[r.key] = true
			}
			kept = nil
		}
		plans, wanted = append(plans, plan), append(wanted, kept)
	}
	for i := range plans {
		for _, r := range wanted[i] {
			if !stays[r.key] {
				plans[i].moved = append(plans[i].moved, location{plans[i].pack, r})
			}
		}
	}
	return plans
}

// move writes blocks to the open pack, except those that it has already. It goes on after a block
// that is damaged in its pack, for which another pack may have a copy.
func (s *Store) move(ctx context.Context, blocks []location) error {
	var errs error
	for _, at := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.moved(at) {
			continue
		}
		data, err := s.readAny(ctx, at)
		if err == nil {
			err = s.add(ctx, at.key, data)
		} else if errors.Is(err, cas.ErrCorrupt) {
			errs = errors.Join(errs, err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return errs
}

// moved reports whether a pack that was written after the one at a location, by this process, has
// the block.
func (s *Store) moved(at location) bool {
	if _, ok := s.inMemory(at.key); ok {
		return true
	}
	found := s.find(at.key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.ContainsFunc(found, func(l location) bool { return s.w.own[l.pack.name] && l.pack.name != at.pack.name })
}

// readAny reads a block from a location, or from another pack that has it.
func (s *Store) readAny(ctx context.Context, at location) ([]byte, error) {
	data, err := s.readBlock(ctx, at, at.key.cid())
	if err == nil {
		return data, nil
	}
	for _, other := range s.find(at.key) {
		if other.pack.name == at.pack.name {
			continue
		}
		if data, otherErr := s.readBlock(ctx, other, at.key.cid()); otherErr == nil {
			return data, nil
		}
	}
	return nil, err
}

// removeOld removes packs that were marked longer ago than the grace, and what killed writers left,
// and returns the bytes of the packs that still wait. The index goes first: what is left then does
// not belong to the store.
func (s *Store) removeOld(ctx context.Context) (waiting int64, err error) {
	l, err := s.list(ctx)
	if err != nil {
		return 0, err
	}
	now := s.Now()
	remove := func(names ...string) {
		for _, name := range names {
			if err == nil {
				err = s.Remove(ctx, name)
			}
		}
	}
	for name, mark := range l.marks {
		if l.committed(name) && s.opts.Grace > 0 && now.Sub(mark.Modified) < s.opts.Grace {
			waiting += l.packs[name].Size
			continue
		}
		remove(indexObject(name), packObject(name), markObject(name))
	}
	old := func(o Object) bool { return now.Sub(o.Modified) > max(s.opts.Grace, leftoverGrace) }
	for name, o := range l.packs {
		if _, ok := l.indexes[name]; !ok && l.marks[name].Name == "" && old(o) {
			s.log.Info("upload without an index removed", "object", s.String()+"/"+o.Name)
			remove(o.Name)
		}
	}
	for name, o := range l.indexes {
		if _, ok := l.packs[name]; !ok && l.marks[name].Name == "" && old(o) {
			remove(o.Name)
		}
	}
	if err != nil {
		return waiting, err
	}
	if n, err := s.EndUploads(ctx, packFolder, now.Add(-max(s.opts.Grace, leftoverGrace))); err != nil {
		return waiting, err
	} else if n > 0 {
		s.log.Info("incomplete uploads ended", "store", s.String(), "uploads", n)
	}
	return waiting, nil
}

// Repair writes blocks of damaged packs to new packs, those that are damaged from src, and marks the
// damaged packs as replaced. It goes on when src does not have a block; the error joins those of all
// damage that is left.
func (s *Store) Repair(ctx context.Context, damage []pack.Damage, src cas.Source) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.writable(ctx); err != nil {
		return err
	}
	bad := map[string]bool{}
	for _, d := range damage {
		bad[d.File] = true
	}
	var replaced []string
	var errs error
	for _, p := range s.inUse() {
		if !bad[p.object()] && !bad[indexObject(p.name)] {
			continue
		}
		delete(bad, indexObject(p.name))
		if err := s.repairPack(ctx, p, src); err != nil {
			errs = errors.Join(errs, err)
		} else {
			replaced = append(replaced, p.name)
		}
	}
	l, err := s.list(ctx)
	if err != nil {
		return errors.Join(errs, err)
	}
	for name, o := range l.packs { // whose index is damaged
		if l.marks[name].Name != "" || !bad[indexObject(name)] {
			continue
		}
		if err := s.salvage(ctx, name, o.Size, src); err != nil {
			errs = errors.Join(errs, err)
		} else {
			replaced = append(replaced, name)
		}
	}
	for name := range l.indexes { // without a pack
		if _, ok := l.packs[name]; !ok && bad[packObject(name)] {
			replaced = append(replaced, name)
		}
	}
	if err := s.sync(ctx); err != nil {
		return errors.Join(errs, err)
	}
	for _, name := range replaced {
		errs = errors.Join(errs, s.Write(ctx, markObject(name), []byte("replaced\n"), bytesType))
	}
	return errors.Join(errs, s.Refresh(ctx))
}

// repairPack writes the blocks of a pack to new ones.
func (s *Store) repairPack(ctx context.Context, p *packed, src cas.Source) error {
	var errs error
	for _, r := range byOffset(p.records) {
		at := location{p, r}
		if s.moved(at) {
			continue
		}
		data, err := s.readAny(ctx, at)
		if errors.Is(err, cas.ErrCorrupt) {
			if data, err = cas.Get(ctx, src, r.key.cid()); err != nil {
				errs = errors.Join(errs, fmt.Errorf("not repaired: %w", err))
				continue
			}
		}
		if err == nil {
			err = s.add(ctx, r.key, data)
		}
		if err != nil {
			return errors.Join(errs, err)
		}
	}
	return errs
}

// salvage writes the blocks of a pack whose index is damaged to new packs, those that are damaged from
// src. Wrong bytes are read again: they may have been damaged on the way. A pack that is shorter than
// its index says is read to its end; any other bytes that are no section are an error.
func (s *Store) salvage(ctx context.Context, name string, size int64, src cas.Source) (err error) {
	short := false
	if data, _, err := s.Read(ctx, indexObject(name), int64(maxIndex)); err == nil {
		_, covered, err := parseIndex(data)
		short = err == nil && covered > size
	}
	for range readTries {
		if err = s.salvageOnce(ctx, name, size, short, nil); !errors.Is(err, cas.ErrCorrupt) {
			return err
		}
	}
	return s.salvageOnce(ctx, name, size, short, src)
}

func (s *Store) salvageOnce(ctx context.Context, name string, size int64, short bool, src cas.Source) error {
	data, _, err := s.Read(ctx, packObject(name), min(size, maxPackSize))
	if err != nil {
		return err
	}
	var errs error
	for at := len(car.NoRoots); at < len(data); {
		h, ok := car.ParseHead(data[at:])
		if ok && short && h.Size > len(data)-at-h.Len {
			return errs
		}
		if !ok || h.Size > len(data)-at-h.Len || !cas.IsCID(string(h.CID[:])) {
			return errors.Join(errs, fmt.Errorf("object %s/%s: not repaired: no section at byte %d: %w", s, packObject(name), at, cas.ErrCorrupt))
		}
		k, end := key(h.CID), at+h.Len+h.Size
		block := data[at+h.Len : end]
		at = end
		if s.stored(k) {
			continue
		}
		if err := cas.Check(k.cid(), block); err != nil {
			err = fmt.Errorf("object %s/%s: not repaired: %w", s, packObject(name), err)
			if src == nil {
				errs = errors.Join(errs, err)
				continue
			}
			if block, _ = cas.Get(ctx, src, k.cid()); block == nil {
				errs = errors.Join(errs, err)
				continue
			}
		}
		if err := s.add(ctx, k, block); err != nil {
			return errors.Join(errs, err)
		}
	}
	return errs
}
