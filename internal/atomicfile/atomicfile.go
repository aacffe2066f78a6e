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
)

// Write replaces the content of path by data: it writes a temporary file in the same folder, syncs
// it, renames it, and syncs the folder. After an error the old file is unchanged and the temporary
// file is removed. A device, a pipe or a folder is never replaced; the error wraps fs.ErrInvalid.
func Write(path string, mode fs.FileMode, data []byte) error {
	return WriteFrom(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom is Write for content that fill writes.
func WriteFrom(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; name a file: %w", path, fs.ErrInvalid)
	}
	return write(path, mode, fill, os.Rename)
}

// Create is Write for a file that must not exist. If it exists it is not changed, and the error
// wraps fs.ErrExist.
func Create(path string, mode fs.FileMode, data []byte) error {
	fill := func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
	return write(path, mode, fill, renameNew)
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

func write(path string, mode fs.FileMode, fill func(io.Writer) error, rename func(from, to string) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base[:min(len(base), 200)]+".*") // names have at most 255 bytes
	if err != nil {
		return file.FullDisk(named(err, path))
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = file.FullDisk(named(err, path))
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

// named returns err with path in place of the temporary file, and with a remedy.
func named(err error, path string) error {
	cause := err
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &le):
		cause = le.Err
	case errors.As(err, &pe):
		cause = pe.Err
	default:
		return err
	}
	switch {
	case errors.Is(cause, fs.ErrPermission):
		cause = reworded{"its folder is not writable for this user", cause}
	case errors.Is(cause, syscall.EROFS):
		cause = reworded{"its folder is on a read-only file system", cause}
	case errors.Is(cause, fs.ErrNotExist):
		cause = reworded{"its folder does not exist; make it first", cause}
	}
	return &fs.PathError{Op: "write", Path: path, Err: cause}
}

// reworded is an error with another text.
type reworded struct {
	text string
	error
}

func (b reworded) Error() string { return b.text }
func (b reworded) Unwrap() error { return b.error }
