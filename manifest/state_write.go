package manifest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errMoved says that the state is no longer what the verdict was based on.
var errMoved = errors.New("state: another program wrote it in the meantime")

// write makes files what the state remembers, beside what it has of other channels: a new
// folder is filled, synced, and put in the place of the old one. Nothing is written when
// nothing is new, or when the state has changed since it was read (errMoved).
func (m *memory) write(files []stateFile) error {
	if m.dir == "" || m.readOnly {
		return nil
	}
	unlock, err := lock(filepath.Dir(m.dir))
	if err != nil {
		return err
	}
	defer unlock()
	if moved, err := m.moved(); err != nil {
		return err
	} else if moved {
		return errMoved
	}
	if m.has(files) {
		return nil
	}
	next := m.dir + ".next"
	if err := os.RemoveAll(next); err != nil { // of a power cut
		return err
	}
	if err := m.fill(next, files); err != nil {
		os.RemoveAll(next)
		return err
	}
	if err := exchange(next, m.dir); err != nil {
		os.RemoveAll(next)
		return err
	}
	return errors.Join(syncFolder(filepath.Dir(m.dir)), os.RemoveAll(next))
}

// moved reports whether a file that was read is another one now.
func (m *memory) moved() (bool, error) {
	for name, was := range m.seen {
		is, err := m.readFile(name, was.kind.Max())
		if unread(err) != nil {
			return false, err
		}
		if err != nil {
			is = nil
		}
		if !bytes.Equal(is, was.data) {
			return true, nil
		}
	}
	return false, nil
}

// has reports whether the state remembers all the files already.
func (m *memory) has(files []stateFile) bool {
	for _, f := range files {
		old, err := m.readFile(f.name, int64(len(f.data)))
		if err != nil || !bytes.Equal(old, f.data) {
			return false
		}
	}
	return true
}

// fill makes the folder next: the given files, and those of m beside them.
func (m *memory) fill(next string, files []stateFile) error {
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeSynced(filepath.Join(next, f.name), f.data); err != nil {
			return err
		}
	}
	if err := m.carry(next); err != nil {
		return err
	}
	return syncFolder(next)
}

// carry copies what else is remembered, and leaves behind whatever a stranger put there
// that is no metadata file.
func (m *memory) carry(next string) error {
	dir, err := openFolder(m.dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxRoots + maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		to := filepath.Join(next, name)
		if _, err := os.Lstat(to); err == nil || !fileGrammar.MatchString(name) {
			continue
		}
		data, err := m.readFile(name, MaxMetadata)
		if unread(err) != nil {
			return err // the floor of another channel may be in it
		}
		if err != nil {
			continue // of no use where it is, and of none there
		}
		if err := writeSynced(to, data); err != nil {
			return err
		}
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// exchange puts the folder next in the place of dir, whatever dir is, in one step: what was
// there has the name next afterwards, if there was anything.
func exchange(next, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(next, dir)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return replaceFolder(next, dir)
	}
	return &os.LinkError{Op: "exchange", Old: next, New: dir, Err: err}
}

// replaceFolder is for filesystems that cannot exchange. A power cut between its two steps
// loses the state, which lowers the floor and bricks nothing.
func replaceFolder(next, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(next, dir)
}

// lock waits until no other program writes the state.
func lock(dir string) (unlock func() error, err error) {
	f, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

// openFolder opens a folder, and no link to one.
func openFolder(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func syncFolder(path string) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
