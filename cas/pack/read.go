package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// mtimeGrain is the coarsest resolution of a folder's mtime (FAT: 2 s). When the mtime was
// younger than this at the last listing, the folder may have changed after it with the same
// mtime.
const mtimeGrain = 2 * time.Second

// refresh lists the folder again if it may have changed since the last listing, and reports
// whether it did. It costs one stat when the folder has not changed.
func (p *Store) refresh(ctx context.Context) (bool, error) {
	fi, err := os.Stat(p.dir)
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	p.mu.RLock()
	same := fi.ModTime().Equal(p.folderTime) && p.listedAt.Sub(p.folderTime) > mtimeGrain
	p.mu.RUnlock()
	if same {
		return false, nil
	}
	return true, p.rescan(ctx)
}

// rescan updates a reader's list of packs: new packs, new indexes, removed packs. On an error
// the list stays as it was.
func (p *Store) rescan(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		gone, err := p.listOnce(ctx)
		if err != nil || !gone {
			return err
		}
	}
}

// listOnce lists the folder once. gone is true when a pack was removed between the listing and
// its opening: its blocks may be in a pack that was not listed, so the caller lists again.
func (p *Store) listOnce(ctx context.Context) (gone bool, err error) {
	if p.closed {
		return false, p.errClosed()
	}
	now := time.Now()
	fi, err := os.Stat(p.dir)
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	nums, err := p.list()
	if err != nil {
		return false, err
	}
	was := p.mergedIndex
	if p.mergedIndex, err = p.readMerged(ctx); err != nil {
		p.mergedIndex = was
		return false, err
	}
	old := make(map[int]*pack, len(p.packs))
	for _, k := range p.packs {
		old[k.num] = k
	}
	var packs, opened []*pack
	for _, num := range nums {
		if k := old[num]; k != nil && p.mergedIndex == was && !p.stale(k) {
			packs = append(packs, k)
			delete(old, num)
			continue
		}
		k, err := p.openForReading(ctx, num)
		if err != nil {
			if p.mergedIndex != was {
				err = errors.Join(err, p.mergedIndex.close())
			}
			p.mergedIndex = was
			return false, errors.Join(err, closePacks(opened))
		}
		if k == nil {
			_, err := os.Lstat(p.packPath(num))
			gone = gone || errors.Is(err, fs.ErrNotExist)
		} else {
			packs, opened = append(packs, k), append(opened, k)
		}
	}
	p.packs, p.folderTime, p.listedAt = packs, fi.ModTime(), now
	p.updateMerged()
	if p.mergedIndex != was {
		err = was.close()
	}
	return gone, errors.Join(err, closePacks(slices.Collect(maps.Values(old))))
}

// openForReading opens a pack for reading. It returns nil for a pack that is damaged, so that the
// other packs are still read, and for a pack that was removed in between.
func (p *Store) openForReading(ctx context.Context, num int) (*pack, error) {
	k, rebuilt, err := p.openPack(ctx, num, false)
	switch {
	case errors.Is(err, cas.ErrCorrupt):
		p.log.Warn("pack skipped", "pack", p.packPath(num), "cause", err)
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if rebuilt != nil {
		p.log.Warn("index unusable, pack scanned", "pack", k.path, "blocks", k.count(), "cause", rebuilt)
	}
	return k, nil
}

func closePacks(packs []*pack) error {
	var err error
	for _, k := range packs {
		err = errors.Join(err, k.close())
	}
	return err
}
