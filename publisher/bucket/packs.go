package bucket

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// A packed is a pack in the object store.
type packed struct {
	name    string // without folder and extension
	size    int64
	records []record  // sorted
	marked  time.Time // when Collect marked it as replaced; zero for a pack in use
}

func (p *packed) object() string { return packObject(p.name) }

// A ref is the position of a record: the beginning of its digest, the pack, the record in it.
type ref struct {
	prefix       uint64
	pack, record uint32
}

func compareRefs(a, b ref) int { return cmp.Compare(a.prefix, b.prefix) }

func prefixOf(k *key) uint64 { return binary.BigEndian.Uint64(k[car.CIDLen-32:]) }

// all returns the packs that are in the object store; inUse those of them that are not marked.
func (s *Store) all() []*packed {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(s.packs), func(p *packed) bool { return p == nil })
}

func (s *Store) inUse() []*packed {
	return slices.DeleteFunc(s.all(), func(p *packed) bool { return !p.marked.IsZero() })
}

// Refresh lists the packs again: it reads the indexes of new ones, and drops those that were
// removed. An index that is damaged, or whose pack is missing or has another size, is left out.
func (s *Store) Refresh(ctx context.Context) error {
	if err := s.startList(ctx); err != nil {
		return err
	}
	defer s.endList()
	return s.refresh(ctx)
}

// startList waits until no other caller lists the packs. endList must follow.
func (s *Store) startList(ctx context.Context) error {
	select {
	case s.listing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) endList() { <-s.listing }

// refresh is Refresh after startList. It notes the result, unless its caller gave up.
func (s *Store) refresh(ctx context.Context) error {
	err := s.listPacks(ctx)
	if ctx.Err() == nil {
		s.tried, s.failed = time.Now(), err
	}
	return err
}

// readMost is how much a store may have.
func (s *Store) readMost() count { return count{2 * s.opts.most.packs, 2 * s.opts.most.blocks} }

func (s *Store) listPacks(ctx context.Context) error {
	if err := s.open(); err != nil {
		return err
	}
	l, err := s.list(ctx)
	if err != nil {
		return err
	}
	have := map[string]*packed{}
	for _, p := range s.all() {
		have[p.name] = p
	}
	if err := s.check(l.count(), s.readMost()); err != nil { // before the indexes are read
		return err
	}
	var mu sync.Mutex
	var fresh []*packed
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelGet)
	for name, o := range l.packs {
		if have[name] != nil || !l.committed(name) {
			continue
		}
		g.Go(func() error {
			p, err := s.readIndex(gctx, name, o.Size)
			if errors.Is(err, cas.ErrCorrupt) {
				s.log.Warn("pack left out", "cause", err)
				return nil
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed since
			}
			if err == nil {
				mu.Lock()
				fresh = append(fresh, p)
				mu.Unlock()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.replace(l, fresh)
}

// readIndex reads the index of a pack, which has a size in the list. A damaged one is read again: it
// may have been damaged on the way.
func (s *Store) readIndex(ctx context.Context, name string, size int64) (p *packed, err error) {
	for range readTries {
		if p, err = s.readIndexOnce(ctx, name, size); !errors.Is(err, cas.ErrCorrupt) {
			return p, err
		}
	}
	return nil, err
}

func (s *Store) readIndexOnce(ctx context.Context, name string, size int64) (*packed, error) {
	data, _, err := s.Read(ctx, indexObject(name), int64(maxIndex))
	if err != nil {
		return nil, err
	}
	records, covered, err := parseIndex(data)
	if err == nil && covered != size {
		err = fmt.Errorf("for %d bytes, %s has %d: %w", covered, packObject(name), size, cas.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("object %s/%s: %w", s, indexObject(name), err)
	}
	return &packed{name: name, size: size, records: records}, nil
}

// replace updates the packs to a list, and adds new ones.
func (s *Store) replace(l listing, fresh []*packed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := false
	for i, p := range s.packs {
		if p == nil {
			continue
		}
		marked := l.marks[p.name].Modified
		switch {
		case !l.committed(p.name):
			s.packs[i], removed = nil, true
			s.gone++
			s.changed = time.Now()
		case !marked.Equal(p.marked): // a reader may have the old value
			next := *p
			next.marked = marked
			s.packs[i] = &next
			s.changed = time.Now()
		}
	}
	if removed {
		s.refs = slices.DeleteFunc(slices.Clone(s.refs), func(r ref) bool { return s.packs[r.pack] == nil })
	}
	for _, p := range fresh {
		p.marked = l.marks[p.name].Modified
	}
	return s.addPacks(fresh)
}

// addPacks adds packs and their records. s.mu is held.
func (s *Store) addPacks(fresh []*packed) error {
	if len(fresh) == 0 {
		return nil
	}
	n := count{len(s.packs) - s.gone + len(fresh), len(s.refs)}
	for _, p := range fresh {
		n.blocks += len(p.records)
	}
	if err := s.check(n, s.readMost()); err != nil {
		return err
	}
	var refs []ref
	for _, p := range fresh {
		at := uint32(s.place(p))
		for i := range p.records {
			refs = append(refs, ref{prefixOf(&p.records[i].key), at, uint32(i)})
		}
	}
	slices.SortFunc(refs, compareRefs)
	s.refs = mergeRefs(s.refs, refs)
	s.changed = time.Now()
	return nil
}

// place puts a pack where one was removed, or at the end.
func (s *Store) place(p *packed) int {
	i := slices.Index(s.packs, nil)
	if i < 0 {
		i = len(s.packs)
		s.packs = append(s.packs, nil)
		s.gone++
	}
	s.packs[i] = p
	s.gone--
	return i
}

// mergeRefs merges two sorted lists.
func mergeRefs(a, b []ref) []ref {
	out := make([]ref, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if compareRefs(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}
