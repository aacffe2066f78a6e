package pack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// IsStore reports whether dir has a pack, or the lock file that every writer leaves. The error
// wraps fs.ErrNotExist when dir does not exist.
func IsStore(dir string) (bool, error) {
	entries, err := file.ReadDir(dir, maxNames)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() == lockName || packNumber(e.Name()) > 0
	}), corruptIfKind(err)
}

const lockName = "lock"

// ErrBusy is wrapped by the error of opening a store that another process writes to.
var ErrBusy = errors.New("busy")

// lockStore takes the writer's lock, which the kernel releases when the process ends. The
// process ID in the file is only for the error text.
func lockStore(dir string) (*os.File, error) {
	f, err := openFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		if !errors.Is(err, cas.ErrCorrupt) { // which has a remedy
			err = withRemedy(file.Pathless(err))
		}
		return nil, fmt.Errorf("store %s: lock: %w", dir, err)
	}
	err = file.TryLock(f)
	if errors.Is(err, file.ErrLocked) {
		defer f.Close()
		return nil, fmt.Errorf("store %s: %w: %s writes to it; wait for it or stop it", dir, ErrBusy, holder(f))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	if err != nil && !file.IsFull(err) {
		f.Close()
		return nil, fmt.Errorf("store %s: lock: %w", dir, err)
	}
	return f, nil
}

// holder names the process that has the lock.
func holder(f *os.File) string {
	var pid int
	if _, err := fmt.Fscan(io.NewSectionReader(f, 0, 16), &pid); err != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}
