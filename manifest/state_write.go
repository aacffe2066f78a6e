package manifest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// errStateChanged says that the state has changed since the check read it.
var errStateChanged = errors.New("state: another program changed it in the meantime; run it again")

// write replaces the state: it fills and syncs a new folder with files and with the files of other
// channels, and exchanges it with the old folder. When all files are there already, it writes
// nothing. When the state has changed since it was read, it writes nothing and returns
// errStateChanged.
func (m *repositoryState) write(ctx context.Context, files []stateFile) error {
	if m.dir == "" || m.readOnly {
		return nil
	}
	unlock, err := lock(ctx, filepath.Dir(m.dir))
	if err != nil {
		return err
	}
	defer unlock()
	if changed, err := m.changed(); err != nil {
		return err
	} else if changed {
		return errStateChanged
	}
	if m.has(files) {
		return nil
	}
	next := m.dir + ".next"
	if err := os.RemoveAll(next); err != nil { // left by a power cut
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
	return errors.Join(atomicfile.SyncDir(filepath.Dir(m.dir)), os.RemoveAll(next))
}

// changed reports whether a file that was read has other content now.
func (m *repositoryState) changed() (bool, error) {
	for name, was := range m.reads {
		is, err := m.readFile(name, was.kind.Max())
		if stateError(err) != nil {
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

// has reports whether the state has all the files already.
func (m *repositoryState) has(files []stateFile) bool {
	for _, f := range files {
		old, err := m.readFile(f.name, int64(len(f.data)))
		if err != nil || !bytes.Equal(old, f.data) {
			return false
		}
	}
	return true
}

// fill makes the folder next with the given files and with the other files of m.
func (m *repositoryState) fill(next string, files []stateFile) error {
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeSynced(filepath.Join(next, f.name), f.data); err != nil {
			return err
		}
	}
	if err := m.copyRest(next); err != nil {
		return err
	}
	return atomicfile.SyncDir(next)
}

// copyRest copies the other metadata files of the state to next. Files of other names, which an
// attacker may have put there, are not copied.
func (m *repositoryState) copyRest(next string) error {
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
		if stateError(err) != nil {
			return err // it may have the floor of another channel
		}
		if err != nil {
			continue // it is damaged
		}
		if err := writeSynced(to, data); err != nil {
			return err
		}
	}
	return nil
}

// writeSynced makes a file and syncs it.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// exchange replaces dir by the folder next in one step. Afterwards next has what dir was, if dir
// was there.
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

// replaceFolder is for file systems that cannot exchange. A power cut between its two steps loses
// the state: floors are lower then, and the next boot works.
func replaceFolder(next, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(next, dir)
}

// lock waits until no other program writes the state. unlock releases it.
func lock(ctx context.Context, dir string) (unlock func() error, err error) {
	f, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := file.Lock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

// openFolder opens a folder. A symbolic link is refused.
func openFolder(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}
