package publisher

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/store"
)

const (
	checkInterval = time.Hour   // until the store is checked again although its folder is unchanged
	mtimeGrain    = time.Second // a folder that changed so shortly before a check may have changed after it too
	maxDamaged    = 16          // damaged blocks that are remembered
)

// storeHealth is what a daemon knows of the blocks that its newest pointer needs.
type storeHealth struct {
	checking sync.Mutex // one check at a time; it may take minutes on a slow disk
	folder   cid.Cid    // the pointer of the last check
	changed  time.Time  // the modification time of the store's folder at the last check
	checked  time.Time
	missing  error // the first missing block of the last check

	mu      sync.Mutex
	damaged map[cid.Cid]struct{} // blocks with a wrong hash that clients requested
	result  error                // of the last check
}

// note remembers a block with a wrong hash.
func (h *storeHealth) note(err error) {
	var wrong *cas.WrongError
	if !errors.As(err, &wrong) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damaged == nil {
		h.damaged = map[cid.Cid]struct{}{}
	}
	if len(h.damaged) < maxDamaged {
		h.damaged[wrong.CID] = struct{}{}
	}
}

// seen lists the blocks that note remembers.
func (h *storeHealth) seen() []cid.Cid {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.damaged))
}

// last returns the result of the last check.
func (h *storeHealth) last() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.result
}

func (h *storeHealth) forget(c cid.Cid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.damaged, c)
}

// fault notes and logs why a block was not served. An object store that does not answer has no fault.
func (s *server) fault(err error) {
	if errors.Is(err, cas.ErrUnreachable) {
		s.outages.Error("block not served", "cause", err)
		return
	}
	s.storeHealth.note(err)
	s.meter.faults.Inc()
	s.faults.Error("block not served", "cause", err)
}

// checkStore reports missing and damaged blocks. It looks all blocks of the newest pointer
// up for each pointer, when the store's folder changed, every hour, and while a block is
// missing. It hashes damaged blocks again, and forgets those that are repaired or removed. The error wraps
// cas.ErrUnreachable if an object store does not answer.
func (s *server) checkStore(ctx context.Context) error {
	s.storeHealth.checking.Lock()
	defer s.storeHealth.checking.Unlock()
	return s.checkLocked(ctx)
}

// checkLocked is checkStore while storeHealth.checking is locked. It keeps the result.
func (s *server) checkLocked(ctx context.Context) error {
	err := s.findDamage(ctx)
	if h := &s.storeHealth; ctx.Err() == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.result = err
	}
	return err
}

func (s *server) findDamage(ctx context.Context) error {
	h := &s.storeHealth
	current, _ := s.source.current()
	changed, err := store.Changed(ctx, s.Store, s.packs)
	if errors.Is(err, cas.ErrUnreachable) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		return store.Damaged(s.Store, err.Error())
	}
	now := time.Now()
	if h.missing != nil || !h.folder.Equals(current.Folder) || !h.changed.Equal(changed) || h.checked.Sub(changed) < mtimeGrain || now.Sub(h.checked) >= checkInterval {
		_, err := s.packs.Stats(ctx) // drops packs that were removed
		if err = errors.Join(err, store.Complete(ctx, s.packs, current.releases)); ctx.Err() != nil {
			return ctx.Err()
		}
		h.missing, h.folder, h.changed, h.checked = err, current.Folder, changed, now
	}
	if errors.Is(h.missing, cas.ErrUnreachable) {
		return h.missing
	}
	if h.missing != nil {
		return store.Damaged(s.Store, h.missing.Error())
	}
	for _, c := range h.seen() {
		_, err := cas.Get(ctx, s.packs, c)
		if errors.Is(err, cas.ErrUnreachable) {
			return err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return store.Damaged(s.Store, err.Error())
		}
		h.forget(c)
	}
	return nil
}
