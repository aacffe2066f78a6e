package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// openWriter takes the lock, repairs what a crash left, and opens all packs.
func (p *Store) openWriter(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return fmt.Errorf("store: %w", withRemedy(err))
	}
	var err error
	if p.lock, err = lockStore(p.dir); err != nil {
		return err
	}
	if err := p.removeLeftovers(); err != nil {
		return err
	}
	nums, err := p.list()
	if err != nil {
		return err
	}
	if p.mergedIndex, err = p.readMerged(ctx); err != nil {
		return err
	}
	for i, num := range nums {
		if err := p.addPack(ctx, num, i == len(nums)-1); err != nil {
			return err
		}
	}
	p.updateMerged()
	p.merge()
	return nil
}

// removeLeftovers removes temporary files and indexes without a pack, which a killed writer
// leaves, and finds the number of the next pack.
func (p *Store) removeLeftovers() error {
	entries, err := readFolder(p.dir)
	if err != nil {
		return err
	}
	p.w.next = 1
	for _, e := range entries {
		name, isIndex := strings.CutSuffix(e.Name(), ".idx")
		p.w.next = max(p.w.next, packNumber(e.Name())+1, packNumber(name+".car")+1) // higher than every name, also of what is no regular file
		if isIndex {
			_, err := os.Lstat(filepath.Join(p.dir, name+".car"))
			isIndex = errors.Is(err, fs.ErrNotExist)
		}
		isIndex = isIndex && strings.HasPrefix(name, "pack-")
		if isIndex || strings.HasPrefix(name, "pack") && strings.HasSuffix(name, ".tmp") {
			err := p.opts.disk.remove(filepath.Join(p.dir, e.Name()))
			if isBlocked(err) {
				p.log.Warn("leftover file not removed", "cause", err)
			} else if err != nil {
				return fmt.Errorf("store: %w", err)
			}
		}
	}
	return nil
}

// isBlocked reports whether a file could not be written or removed because a folder that is not
// empty has its name.
func isBlocked(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EISDIR) || errors.Is(err, fs.ErrExist)
}

// addPack opens a pack and adds it to the store. The last pack becomes the open pack if it is
// shorter than MaxPack. A file that is no pack is skipped, so that the other packs are used.
func (p *Store) addPack(ctx context.Context, num int, last bool) error {
	k, err := p.recoverPack(ctx, num, last)
	if errors.Is(err, cas.ErrCorrupt) {
		p.log.Warn("pack skipped", "pack", p.packPath(num), "cause", err)
		return p.removeEmpty(num)
	}
	if err != nil {
		return err
	}
	p.packs = append(p.packs, k)
	if !last || k.end >= p.opts.MaxPack || k.indexBlocked {
		if k.sections != nil && !k.noIndex {
			err = p.useIndex(ctx, k)
		}
		k.file.join(p.pool)
		return err
	}
	if err := k.loadTable(); err != nil {
		return err
	}
	p.w.open = k
	if !k.noIndex {
		p.w.synced = k.end
	}
	return nil
}

// removeEmpty removes a pack that has only zero bytes: the power was cut while it was created.
func (p *Store) removeEmpty(num int) error {
	empty, err := isZero(p.packPath(num))
	if err != nil || !empty {
		return err
	}
	if err := p.opts.disk.remove(p.indexPath(num)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %w", err)
	}
	return p.opts.disk.remove(p.packPath(num))
}

// isZero reports whether a file has no data (only a hole), or is short and has only zero bytes.
func isZero(path string) (bool, error) {
	f, err := openFile(path, os.O_RDONLY)
	if errors.Is(err, cas.ErrCorrupt) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	if _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
		return true, nil
	}
	const short = 1 << 20
	data, err := io.ReadAll(io.NewSectionReader(f, 0, short+1))
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	return len(data) <= short && len(bytes.Trim(data, "\x00")) == 0, nil
}

// recoverPack opens a pack for the writer and repairs it. The tail of the last pack that its index
// does not cover is scanned and indexed, and cut off where it is torn. On a full disk the
// index is not written and its table stays in memory: the caller may have opened the store in
// order to remove blocks.
func (p *Store) recoverPack(ctx context.Context, num int, last bool) (*pack, error) {
	k, rebuilt, err := p.openPack(ctx, num, last)
	if err != nil {
		return nil, err
	}
	if rebuilt != nil {
		p.log.Warn("index rebuilt", "pack", k.path, "blocks", k.count(), "cause", rebuilt)
	}
	if last && k.end < k.size {
		err = p.recoverTail(ctx, k)
	}
	if err == nil && k.sections != nil {
		if err = k.file.use(p.opts.disk.sync); err == nil {
			err = p.writeIndex(k)
		}
		if file.IsFull(err) || isBlocked(err) {
			p.log.Warn("index not written", "pack", k.path, "cause", err)
			k.noIndex, k.indexBlocked, err = true, isBlocked(err), nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// recoverTail scans the bytes of a pack that its index does not cover, and cuts off a torn tail.
func (p *Store) recoverTail(ctx context.Context, k *pack) error {
	if err := k.loadTable(); err != nil {
		return err
	}
	found, err := scan(ctx, k.file, k.end, k.size, maxListed)
	if err != nil {
		return fmt.Errorf("pack %s: %w", k.path, err)
	}
	for key, offset := range found.sections {
		k.sections[key] = offset
	}
	k.end, k.flushed = found.end, found.end
	if k.end == k.size {
		return nil
	}
	p.log.Warn("torn tail removed", "pack", k.path, "bytes", k.size-k.end)
	if err := p.opts.disk.truncate(k.file.f, k.end); err != nil {
		return fmt.Errorf("pack %s: %w", k.path, err)
	}
	k.size = k.end
	return nil
}

// loadTable replaces the index of a pack by a table in memory, to which sections can be added.
// An index has no codecs, so the heads of the sections are read from the pack. Records without
// a section are dropped.
func (k *pack) loadTable() error {
	if k.index == nil {
		return nil
	}
	sections := make(map[sectionKey]int64, k.index.count)
	tmp := new(scratch)
	err := k.index.each(func(_ byte, _ []byte, offset int64) {
		if s, err := readHead(k, offset, k.end, tmp); err == nil {
			sections[s.key] = offset
		}
	})
	if err != nil {
		return fmt.Errorf("pack %s: %w", k.path, err)
	}
	err = k.index.close()
	k.index, k.sections = nil, sections
	return err
}
