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

var (
	// ErrKind means that a path does not name a regular file.
	ErrKind = errors.New("not a regular file")
	// ErrTooLarge means that a file has more bytes than the limit of the call.
	ErrTooLarge = errors.New("too large")
)

// NoFollow makes Open and OpenFile refuse a symbolic link as the last part of a path.
const NoFollow = unix.O_NOFOLLOW

// A kindError names the kind of file at a path. It is an ErrKind, and an EISDIR for a folder in
// place of a file, an ENOTDIR for anything in place of a folder.
type kindError struct {
	mode   fs.FileMode
	wanted string
}

const (
	aFile   = "a regular file"
	aFolder = "a folder"
)

func (k kindError) Error() string { return fmt.Sprintf("is %s, not %s", kindText(k.mode), k.wanted) }

func (k kindError) Is(target error) bool {
	return target == ErrKind || target == unix.EISDIR && k.mode.IsDir() || target == unix.ENOTDIR && k.wanted == aFolder
}

// checkKind returns err, or an error for info that is of another kind of file than wanted.
func checkKind(path, wanted string, info fs.FileInfo, err error) error {
	if err == nil && (wanted == aFile && !info.Mode().IsRegular() || wanted == aFolder && !info.IsDir()) {
		err = &fs.PathError{Op: "open", Path: path, Err: kindError{info.Mode(), wanted}}
	}
	return err
}

func kindText(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return aFolder
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

// Open opens a regular file for reading. flags is 0 or NoFollow. The error wraps ErrKind for any
// other kind of file.
func Open(path string, flags int) (*os.File, error) {
	return OpenFile(path, os.O_RDONLY|flags, 0)
}

// OpenFile is os.OpenFile for a regular file, or for one that O_CREATE makes. It checks the kind of
// file before it opens the path, because opening a device can have effects, and again afterwards.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	return openChecked(path, flag, perm, Check(path, flag), os.OpenFile)
}

// OpenIn opens a regular file inside root for reading. Links on the way cannot leave root. flags is
// 0 or NoFollow. The error wraps ErrKind for any other kind of file.
func OpenIn(root *os.Root, name string, flags int) (*os.File, error) {
	stat := root.Stat
	if flags&NoFollow != 0 {
		stat = root.Lstat
	}
	info, err := stat(name)
	return openChecked(name, os.O_RDONLY|flags, 0, checkKind(name, aFile, info, err), root.OpenFile)
}

// OpenInRoot is OpenIn with the folder dir as root.
func OpenInRoot(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return OpenIn(root, name, 0)
}

// openChecked opens a path unless checked, which is the result of a check of its kind, is another
// error than fs.ErrNotExist. It checks the kind of the open file.
func openChecked(path string, flag int, perm fs.FileMode, checked error, open func(string, int, fs.FileMode) (*os.File, error)) (*os.File, error) {
	if checked != nil && !errors.Is(checked, fs.ErrNotExist) {
		return nil, checked
	}
	f, err := open(path, flag|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, perm)
	if errors.Is(err, unix.ELOOP) && flag&NoFollow != 0 {
		return nil, &fs.PathError{Op: "open", Path: path, Err: kindError{fs.ModeSymlink, aFile}}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err := checkKind(path, aFile, info, err); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Check returns nil if a path names a regular file, without opening it. flags is 0 or NoFollow.
func Check(path string, flags int) error {
	stat := os.Stat
	if flags&NoFollow != 0 {
		stat = os.Lstat
	}
	info, err := stat(path)
	return checkKind(path, aFile, info, err)
}

// CheckFolder returns nil if a path names a folder, and not a link to one.
func CheckFolder(path string) error {
	info, err := os.Lstat(path)
	return checkKind(path, aFolder, info, err)
}

// Read reads a regular file of at most limit bytes. The error wraps ErrTooLarge for a longer one.
func Read(path string, flags int, limit int64) ([]byte, error) {
	f, err := Open(path, flags)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, limit)
}

// ReadAll reads the rest of an open file, at most limit bytes. It allocates once for a regular
// file.
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

// pipeTimeout is how long ReadInput reads from a pipe.
const pipeTimeout = 30 * time.Second

// ReadInput reads a file of at most limit bytes that an operator named, as OpenInput opens it. The
// error wraps os.ErrDeadlineExceeded for a pipe that is still open after half a minute.
func ReadInput(path string, limit int64) ([]byte, error) {
	f, err := OpenInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(pipeTimeout)) // a regular file has no deadline
	return ReadAll(f, limit)
}

// OpenInput opens a file that an operator named: a regular file, or a pipe such as <(command) in a
// shell. A pipe without a writer is empty.
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

// ReadDir returns the entries of a folder, in no order, at most limit. The error wraps ErrTooLarge if
// there are more. The path of the folder may contain symbolic links.
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
