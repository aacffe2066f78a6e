package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

// Repair repairs the damage that Fsck found in the store in dir. It takes the writer's lock.
// It reads a damaged block from src and writes it over the damaged one; it removes a damaged
// index, which the next writer rebuilds. It goes on when src does not have a block; the error
// joins those of all damage that is left.
func Repair(ctx context.Context, dir string, damage []Damage, src cas.Source) error {
	lock, err := lockStore(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var errs error
	for _, d := range damage {
		if err := ctx.Err(); err != nil {
			return errors.Join(errs, err)
		}
		errs = errors.Join(errs, d.repair(ctx, src))
	}
	return errors.Join(errs, atomicfile.SyncDir(dir))
}

func (d Damage) repair(ctx context.Context, src cas.Source) error {
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

// repairHeader writes the header of a pack again if a section follows it.
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
		return nil // Fsck.scan found damaged blocks of unknown CIDs: nothing can be repaired here
	}
	if _, err := readHead(f, int64(len(packHeader)), fi.Size(), new(scratch)); err != nil && fi.Size() > int64(len(packHeader)) {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	if _, err := f.WriteAt([]byte(packHeader), 0); err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	return f.Sync()
}

// repairBlock writes the section of a block again. The CID determines every byte of it.
func (d Damage) repairBlock(ctx context.Context, src cas.Source) error {
	c := d.CID
	data, err := cas.Get(ctx, src, c)
	if d.alternate.Defined() && errors.Is(err, fs.ErrNotExist) {
		c = d.alternate
		data, err = cas.Get(ctx, src, c)
	}
	if err != nil {
		return fmt.Errorf("not repaired: %w", err)
	}
	f, err := openFile(d.File, os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(appendSection(nil, sectionKey([]byte(c.KeyString())), data), d.Offset); err != nil {
		return fmt.Errorf("pack %s: %w", d.File, withRemedy(err))
	}
	return f.Sync()
}
