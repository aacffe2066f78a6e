package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// mtimeGrain is how coarse a file system may keep a folder's time (FAT: 2 s). A
// folder younger than this at the last look may have changed again unseen.
const mtimeGrain = 2 * time.Second

// refresh looks at the folder again if it may have changed since the last look: one
// stat when it has not.
func (p *Packs) refresh() (bool, error) {
	fi, err := os.Stat(p.dir)
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	p.mu.RLock()
	same := fi.ModTime().Equal(p.seen) && p.looked.Sub(p.seen) > mtimeGrain
	p.mu.RUnlock()
	if same {
		return false, nil
	}
	return true, p.rescan()
}

// rescan brings a reader's list of packs up to date: new packs, new indexes, packs
// that are gone.
func (p *Packs) rescan() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.errClosed()
	}
	looked := time.Now()
	fi, err := os.Stat(p.dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	nums, err := p.list()
	if err != nil {
		return err
	}
	old := make(map[int]*pack, len(p.packs))
	for _, k := range p.packs {
		old[k.num] = k
	}
	p.packs = nil
	for _, num := range nums {
		k, err := p.reload(num, old[num])
		if err != nil {
			// One bad pack costs its own blocks, not the store.
			p.log.Warn("pack left out", "pack", p.packPath(num), "err", err)
			continue
		}
		delete(old, num)
		p.packs = append(p.packs, k)
	}
	for _, k := range old {
		err = errors.Join(err, k.close())
	}
	p.seen, p.looked = fi.ModTime(), looked
	return err
}

// reload returns old if it is still as the folder has it, or opens the pack anew.
func (p *Packs) reload(num int, old *pack) (*pack, error) {
	if old != nil && !p.stale(old) {
		return old, nil
	}
	k, rebuilt, err := p.openPack(num, false)
	if err != nil {
		return nil, err
	}
	if rebuilt != nil && !errors.Is(rebuilt, fs.ErrNotExist) {
		p.log.Warn("index unusable, pack scanned", "pack", k.path, "err", rebuilt)
	}
	if old != nil {
		err = old.close()
	}
	return k, err
}
