package filetest

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// OpenEveryKind opens a file of each kind under a name. Each open must end, with nil, an
// error of the package io/fs, or one that known accepts, and must not change a file behind a
// link.
func OpenEveryKind(t *testing.T, name string, open func(path string) error, known func(Kind, error) bool) {
	t.Helper()
	for _, kind := range Kinds() {
		t.Run(kind.Name+"/"+name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			if err := kind.Make(path, Outside(t)); err != nil {
				t.Fatal(err)
			}
			Ends(t, func() {
				err := open(path)
				of := func(target error) bool { return errors.Is(err, target) }
				if err != nil && !of(fs.ErrNotExist) && !of(fs.ErrInvalid) && !of(fs.ErrPermission) && !known(kind, err) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}
