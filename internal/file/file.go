// Package file opens files that somebody else may have put there: a stranger who
// wrote the cache partition, or an operator who named the wrong path. It opens regular
// files only. It never waits for a pipe, never opens a device, and reads no more than it
// was told to. It is a leaf: it knows nothing of what the files mean. Start at Open.
package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrKind says that a path names something else than a regular file. ErrTooLarge says
// that a file has more bytes than it may have.
var (
	ErrKind     = errors.New("not a regular file")
	ErrTooLarge = errors.New("too large")
)

// NoFollow makes Open and OpenFile refuse a symbolic link as the last part of a path.
const NoFollow = unix.O_NOFOLLOW

// A kindError says what a path names. It is an ErrKind, and of a folder an EISDIR.
type kindError fs.FileMode

func (k kindError) Error() string {
	return fmt.Sprintf("is %s, not a regular file", kindWords(fs.FileMode(k)))
}

func (k kindError) Is(target error) bool {
	return target == ErrKind || target == unix.EISDIR && fs.FileMode(k).IsDir()
}

func kindWords(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}

// Open opens a regular file for reading. flags is 0 or NoFollow. Anything that is no
// regular file wraps ErrKind.
func Open(path string, flags int) (*os.File, error) {
	return OpenFile(path, os.O_RDONLY|flags, 0)
}

// OpenFile is os.OpenFile for a regular file, or for one that O_CREATE makes. What a
// path names is looked at before it is opened, since to open a device may do
// something, and again afterwards.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	if err := Check(path, flag); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, perm)
	if errors.Is(err, unix.ELOOP) && flag&NoFollow != 0 {
		return nil, refuse(path, fs.ModeSymlink)
	}
	if err != nil {
		return nil, err
	}
	return onlyRegular(f, path)
}

// OpenIn opens a regular file for reading that is inside root, whatever links are on the
// way. flags is 0 or NoFollow. Anything that is no regular file wraps ErrKind.
func OpenIn(root *os.Root, name string, flags int) (*os.File, error) {
	stat := root.Stat
	if flags&NoFollow != 0 {
		stat = root.Lstat
	}
	info, err := stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, refuse(name, info.Mode())
	}
	f, err := root.OpenFile(name, os.O_RDONLY|flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return onlyRegular(f, name)
}

// OpenInRoot is OpenIn for the root that a path names.
func OpenInRoot(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return OpenIn(root, name, 0)
}

// onlyRegular closes an open file that is no regular one.
func onlyRegular(f *os.File, path string) (*os.File, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse(path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Check reports whether a path names a regular file, without opening it. flags is 0 or
// NoFollow.
func Check(path string, flags int) error {
	stat := os.Stat
	if flags&NoFollow != 0 {
		stat = os.Lstat
	}
	info, err := stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = refuse(path, info.Mode())
	}
	return err
}

// CheckFolder reports whether a path names a folder, and not a link to one.
func CheckFolder(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: folderError(info.Mode())}
	}
	return err
}

// A folderError says what a path names that should be a folder.
type folderError fs.FileMode

func (k folderError) Error() string {
	if fs.FileMode(k).IsRegular() {
		return "is a file, not a folder"
	}
	return fmt.Sprintf("is %s, not a folder", kindWords(fs.FileMode(k)))
}

func (k folderError) Is(target error) bool { return target == ErrKind || target == unix.ENOTDIR }

func refuse(path string, mode fs.FileMode) error {
	return &fs.PathError{Op: "open", Path: path, Err: kindError(mode)}
}

// Read reads a regular file of at most limit bytes; a longer one wraps ErrTooLarge.
func Read(path string, flags int, limit int64) ([]byte, error) {
	f, err := Open(path, flags)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, limit)
}

// ReadAll reads the rest of an open file, which must be at most limit bytes. It
// allocates once for a regular file.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		buf.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(io.LimitReader(f, limit+1))
	data := buf.Bytes()
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// pipePatience is how long the writer of a pipe has for a small file.
const pipePatience = 30 * time.Second

// ReadInput reads a file of at most limit bytes that an operator named, as OpenInput
// opens it. A pipe whose writer has not ended after half a minute wraps
// os.ErrDeadlineExceeded.
func ReadInput(path string, limit int64) ([]byte, error) {
	f, err := OpenInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(pipePatience)) // a regular file has none
	return ReadAll(f, limit)
}

// OpenInput opens a file that an operator named: a regular one, or a pipe, such as a
// shell's <(command). A pipe without a writer is empty.
func OpenInput(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != fs.ModeNamedPipe {
		return Open(path, 0)
	}
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// ReadDir returns what is in a folder, in no order, at most limit names; more wrap
// ErrTooLarge. The folder itself may be reached through symbolic links.
func ReadDir(dir string, limit int) ([]fs.DirEntry, error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(limit + 1)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil && len(entries) > limit {
		err = &fs.PathError{Op: "read", Path: dir, Err: fmt.Errorf("%w: more than %d names", ErrTooLarge, limit)}
	}
	return entries, err
}
