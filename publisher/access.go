package publisher

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// accessible reports why files cannot be made in a folder.
func accessible(dir string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "access", Path: dir, Err: err}
	}
	return nil
}
