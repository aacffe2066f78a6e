package file

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// staleAge is the least age of a temporary folder that RemoveStale removes: a younger one
// may not be locked yet.
const staleAge = time.Minute

// MkdirTemp makes a folder with a random name in root and locks it. RemoveStale keeps it
// until lock is closed. Where the file system has no locks, lock is nil.
func MkdirTemp(root *os.Root, prefix string) (name string, lock *os.File, err error) {
	name = prefix + rand.Text()[:10]
	if err := root.Mkdir(name, 0o700); err != nil {
		return "", nil, err
	}
	lock, err = lockIn(root, name)
	if err != nil && !noLocks(err) {
		root.Remove(name)
		return "", nil, err
	}
	return name, lock, nil
}

// noLocks reports whether an error says that the file system has no locks.
func noLocks(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOSYS)
}

// RemoveStale removes the folders of MkdirTemp whose processes have ended. It ignores errors.
func RemoveStale(root *os.Root, prefix string) {
	entries, _ := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) || time.Since(info.ModTime()) < staleAge {
			continue
		}
		if lock, err := lockIn(root, e.Name()); err == nil {
			root.RemoveAll(e.Name())
			lock.Close()
		}
	}
}

func lockIn(root *os.Root, name string) (*os.File, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	if err := TryLock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
