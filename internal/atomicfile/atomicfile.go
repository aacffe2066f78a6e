package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Write replaces the content of path by data: it writes a temporary file in the same folder, syncs
// it, renames it, and syncs the folder. After an error the old file is unchanged and the temporary
// file is removed. A device, a pipe or a folder is never replaced; the error wraps fs.ErrInvalid.
func Write(path string, mode fs.FileMode, data []byte) error {
	return replace(path, mode, content(data))
}

// WriteFrom is Write for content that fill writes.
func WriteFrom(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	return replace(path, mode, func(f *os.File) error { return fill(f) })
}

// Build is Write for content that other programs write: fill gets the name of the temporary file,
// which is empty.
func Build(path string, mode fs.FileMode, fill func(name string) error) error {
	return replace(path, mode, func(f *os.File) error { return fill(f.Name()) })
}

// Check returns the error that Write would return before it writes: no such folder, a folder that is not writable, a
// name that is not a file's. It leaves nothing behind. Programs call it before long work whose result is the file.
func Check(path string) error {
	checked := errors.New("checked")
	err := replace(path, 0o600, func(*os.File) error { return checked }) // the temporary file is removed
	if errors.Is(err, checked) {
		return nil
	}
	return err
}

func content(data []byte) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.Write(data)
		return err
	}
}

func replace(path string, mode fs.FileMode, fill func(*os.File) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; name a file: %w", path, fs.ErrInvalid)
	}
	return write(path, mode, fill, os.Rename)
}

// Create is Write for a file that must not exist. If it exists it is not changed, and the error
// wraps fs.ErrExist.
func Create(path string, mode fs.FileMode, data []byte) error {
	return write(path, mode, content(data), renameNew)
}

// renameNew renames a file unless the new name exists. On file systems without RENAME_NOREPLACE (some
// network file systems) it uses a hard link, which fails likewise.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) {
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	}
	if err != nil {
		return &os.LinkError{Op: "create", Old: from, New: to, Err: err}
	}
	return nil
}

func write(path string, mode fs.FileMode, fill func(*os.File) error, rename func(from, to string) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base[:min(len(base), 200)]+".*") // names have at most 255 bytes
	if err != nil {
		return file.FullDisk(named(path, file.Pathless(err)))
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = file.FullDisk(renamed(err, f.Name(), path))
		}
	}()
	if err = fill(f); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir syncs a folder, so that new names in it survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// renamed returns an error about the temporary file as one about path. An error about another file,
// which a fill function has read, stays as it is.
func renamed(err error, temporary, path string) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &le) && le.Old == temporary:
		return named(path, le.Err)
	case errors.As(err, &pe) && pe.Path == temporary:
		return named(path, pe.Err)
	}
	return err
}

// named returns the error of a write to path, with a remedy.
func named(path string, cause error) error {
	switch {
	case errors.Is(cause, fs.ErrPermission):
		cause = refusal.New(cause, "its folder is not writable for this user")
	case errors.Is(cause, syscall.EROFS):
		cause = refusal.New(cause, "its folder is on a read-only file system")
	case errors.Is(cause, fs.ErrNotExist):
		cause = refusal.New(cause, "its folder does not exist; make it first")
	}
	return &fs.PathError{Op: "write", Path: path, Err: cause}
}
