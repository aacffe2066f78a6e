package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Dir is the path of a cache. It has three folders: blocks is a store, trust has the saved
// metadata (see manifest.State), heads has the IPNS record of each name.
type Dir string

// Blocks is the folder of the store.
func (d Dir) Blocks() string { return filepath.Join(string(d), "blocks") }

// Trust is the folder of the saved metadata.
func (d Dir) Trust() string { return filepath.Join(string(d), "trust") }

func (d Dir) recordFile(name string) string {
	return filepath.Join(string(d), "heads", name+".ipns-record")
}

func (d Dir) folders() []string {
	return []string{d.Blocks(), d.Trust(), filepath.Dir(d.recordFile(""))}
}

// Check refuses a folder that has entries and is not a cache, so that no cache is created
// among other files. A folder that is missing, empty or unreadable passes. The error wraps
// fs.ErrInvalid.
func Check(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || dir == "" {
		return nil
	}
	for _, folder := range Dir(dir).folders() {
		if _, err := os.Lstat(folder); err == nil {
			return nil
		}
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return refusal.Invalid("cache %s: contains %.80q and is not a cache; name an empty or a new folder", dir, e.Name())
		}
	}
	return nil
}

// Check returns an error that wraps cas.ErrCorrupt if a folder of the cache is a link, which may
// lead out of the cache, or another kind of file.
func (d Dir) Check() error {
	for _, dir := range d.folders() {
		if err := file.CheckFolder(dir); errors.Is(err, file.ErrKind) {
			return fmt.Errorf("%w (%w); remove it", err, cas.ErrCorrupt)
		}
	}
	return nil
}

// removeDamaged removes the blocks, and every link or file in the place of a folder. The
// target of a link stays.
func (d Dir) removeDamaged() error {
	err := os.RemoveAll(d.Blocks())
	for _, dir := range d.folders() {
		if errors.Is(file.CheckFolder(dir), file.ErrKind) {
			err = errors.Join(err, os.Remove(dir))
		}
	}
	return err
}

// SaveRecord saves the IPNS record of a name.
func (d Dir) SaveRecord(name string, record []byte) error {
	path := d.recordFile(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := file.CheckFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if errors.Is(file.Check(path, file.NoFollow), file.ErrKind) {
		if err := os.RemoveAll(path); err != nil { // removes a link, not its target
			return err
		}
	}
	return atomicfile.Write(path, 0o600, record)
}

// ReadRecord reads the saved record of a name, without checking its signature. An attacker may
// have written the folder: only a regular file in a real folder is read.
func (d Dir) ReadRecord(name string) ([]byte, error) {
	path := d.recordFile(name)
	err := file.CheckFolder(filepath.Dir(path))
	var record []byte
	if err == nil {
		record, err = file.Read(path, file.NoFollow, int64(p2p.MaxRecord))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no pointer for the repository's name %s: %w", name, fs.ErrNotExist)
	case errors.Is(err, file.ErrKind), errors.Is(err, file.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	return record, err
}
