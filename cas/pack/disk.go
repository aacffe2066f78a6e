package pack

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

// A disk has every operation by which the writer changes files. The tests use another one, which
// fails after a number of operations.
type disk interface {
	create(path string) (*os.File, error)
	writeAt(f *os.File, b []byte, at int64) error
	truncate(f *os.File, size int64) error
	sync(f *os.File) error
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
}

type osDisk struct{}

func (osDisk) create(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL | unix.O_NOFOLLOW
	f, err := os.OpenFile(path, flags, 0o644)
	if errors.Is(err, fs.ErrExist) { // left by a killed writer, or a link that an attacker made
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, flags, 0o644)
	}
	return f, err
}

func (osDisk) writeAt(f *os.File, b []byte, at int64) error {
	_, err := f.WriteAt(b, at)
	return err
}

func (osDisk) truncate(f *os.File, size int64) error { return f.Truncate(size) }
func (osDisk) sync(f *os.File) error                 { return f.Sync() }
func (osDisk) rename(from, to string) error          { return os.Rename(from, to) }
func (osDisk) remove(path string) error              { return os.Remove(path) }
func (osDisk) syncDir(dir string) error              { return atomicfile.SyncDir(dir) }

// startWriteback starts the writeback of n bytes of a file. It may wait for the queue of the
// disk. Errors are returned by the next sync of the file.
func startWriteback(f *os.File, from, n int64) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), from, n, unix.SYNC_FILE_RANGE_WRITE) })
	}
}

// replace writes data to a temporary file, renames it to path, and returns it open. Nothing is
// synced.
func replace(d disk, path string, data []byte) (*os.File, error) {
	tmp := path + ".tmp"
	f, err := d.create(tmp)
	if err != nil {
		return nil, err
	}
	if err = d.writeAt(f, data, 0); err == nil {
		err = d.rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), d.remove(tmp))
	}
	return f, nil
}
