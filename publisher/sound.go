package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	soundFor  = time.Hour   // until the store is looked through again, whatever its folder says
	soundOnce = time.Second // a folder that changed less long before the look may have changed since
	wrongMost = 16          // damaged blocks that are remembered
)

// whole reports the first block of the releases that the store does not list. Nodes are
// read, leaves only looked up.
func whole(ctx context.Context, store cas.Store, releases []manifest.Release) error {
	for _, r := range releases {
		for _, a := range r.Artifacts {
			err := cas.Blocks(ctx, store, a.CID, func(c cid.Cid) error {
				has, err := store.Has(ctx, c)
				if err == nil && !has {
					err = cas.NotFound(c)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s/%s: release %q, %s: %w", r.Channel, r.Arch, r.Version, a.Role, err)
			}
		}
	}
	return nil
}

// Damaged is the error of a store that lacks what is published; what is Status.Damage. It
// wraps cas.ErrCorrupt.
func Damaged(store, what string) error {
	return fmt.Errorf("store %s: %w: %s; phase-publish fsck names all that machines cannot fetch, and mends it with --repair URL", store, cas.ErrCorrupt, what)
}

// soundness is what a daemon knows of the blocks that its head needs.
type soundness struct {
	looking sync.Mutex // a look may take as long as the disk does
	folder  cid.Cid    // the head that was looked at
	changed time.Time  // the store's folder, then
	looked  time.Time
	lost    error // what that look found

	mu    sync.Mutex
	wrong map[cid.Cid]struct{} // blocks that did not hash right when a stranger asked
}

// meet notes a block that did not hash right.
func (s *soundness) meet(err error) {
	var wrong *cas.WrongError
	if !errors.As(err, &wrong) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) < wrongMost {
		s.wrong[wrong.CID] = struct{}{}
	}
}

// met lists the blocks that were met.
func (s *soundness) met() []cid.Cid {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.wrong))
}

func (s *soundness) forget(c cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wrong, c)
}

// fault takes note of what kept a block from being served.
func (s *server) fault(err error) {
	s.soundness.meet(err)
	s.faults.Error("block not served", "cause", err)
}

// sound reports what is wrong with the store, as far as is known: it is looked through for
// each head, when files of it came or went, every hour, and while something is lost.
// Damaged blocks are those that were met, until they hash right or are gone.
func (s *server) sound(ctx context.Context) error {
	k := &s.soundness
	k.looking.Lock()
	defer k.looking.Unlock()
	head, _ := s.heads.current()
	info, err := os.Stat(s.Store)
	if err != nil {
		return Damaged(s.Store, err.Error())
	}
	now, changed := time.Now(), info.ModTime()
	if k.lost != nil || !k.folder.Equals(head.Folder) || !k.changed.Equal(changed) || k.looked.Sub(changed) < soundOnce || now.Sub(k.looked) >= soundFor {
		_, err := s.store.Stats(ctx) // forgets packs that are gone
		if err = errors.Join(err, whole(ctx, s.store, head.releases)); ctx.Err() != nil {
			return ctx.Err()
		}
		k.lost, k.folder, k.changed, k.looked = err, head.Folder, changed, now
	}
	if k.lost != nil {
		return Damaged(s.Store, k.lost.Error())
	}
	for _, c := range k.met() {
		if _, err := cas.Get(ctx, s.store, c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Damaged(s.Store, err.Error())
		}
		k.forget(c)
	}
	return nil
}
