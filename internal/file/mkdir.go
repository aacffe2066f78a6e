package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// MkdirAll is os.MkdirAll, and returns the folders that it made, the uppermost first, also after an
// error.
func MkdirAll(path string, perm fs.FileMode) (made []string, err error) {
	path = filepath.Clean(path)
	err = os.Mkdir(path, perm)
	if up := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && up != path {
		if made, err = MkdirAll(up, perm); err != nil {
			return made, err
		}
		err = os.Mkdir(path, perm)
	}
	if err == nil {
		return append(made, path), nil
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		err = nil
	}
	return made, err
}
