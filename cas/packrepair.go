package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

// Repair mends what Fsck found in the store in dir, which no other process may be writing
// to. A block is asked of src, checked, and written where it was; a damaged index is
// removed, and rebuilt when the store is opened for writing next. It goes on after
// a block that src does not have: the error joins all that is left.
func Repair(ctx context.Context, dir string, damage []Damage, src Source) error {
	lock, err := lockStore(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var left error
	for _, d := range damage {
		if err := ctx.Err(); err != nil {
			return errors.Join(left, err)
		}
		left = errors.Join(left, d.repair(ctx, src))
	}
	return errors.Join(left, atomicfile.SyncDir(dir))
}

func (d Damage) repair(ctx context.Context, src Source) error {
	if d.CID.Defined() {
		return d.repairBlock(ctx, src)
	}
	if strings.HasSuffix(d.File, ".idx") {
		if err := os.Remove(d.File); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return nil
	}
	return repairHeader(d.File)
}

// repairHeader writes a pack's header again if there is a pack behind it.
func repairHeader(path string) error {
	f, err := openFile(path, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if checkHeader(f) == nil {
		return nil // blocks without a name: the releases tell what is missing
	}
	if _, err := readHead(f, int64(len(packHeader)), fi.Size(), new(scratch)); err != nil && fi.Size() > int64(len(packHeader)) {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	if _, err := f.WriteAt([]byte(packHeader), 0); err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	return f.Sync()
}

// repairBlock writes the section again: its name says every byte of it.
func (d Damage) repairBlock(ctx context.Context, src Source) error {
	c := d.CID
	data, err := Get(ctx, src, c)
	if d.alternate.Defined() && errors.Is(err, fs.ErrNotExist) {
		c = d.alternate
		data, err = Get(ctx, src, c)
	}
	if err != nil {
		return fmt.Errorf("not mended: %w", err)
	}
	f, err := openFile(d.File, os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(appendSection(nil, sectionKey([]byte(c.KeyString())), data), d.Offset); err != nil {
		return fmt.Errorf("pack %s: %w", d.File, hint(err))
	}
	return f.Sync()
}
