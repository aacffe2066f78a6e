package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestMkdirAllReturnsTheFoldersThatItMade(t *testing.T) {
	top := t.TempDir()
	at := func(name string) string { return filepath.Join(top, name) }
	if err := errors.Join(os.WriteFile(at("file"), nil, 0o600), os.Symlink("nowhere", at("link"))); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		path string
		made []string
		err  error
	}{
		{"three", "a/b/c/", []string{"a", "a/b", "a/b/c"}, nil},
		{"one more", "a/b/d", []string{"a/b/d"}, nil},
		{"all are there", "a/b", nil, nil},
		{"a file in its place", "file", nil, fs.ErrExist},
		{"a file above", "file/a", nil, syscall.ENOTDIR},
		{"a link to nothing above", "link/a", nil, fs.ErrExist},
	} {
		t.Run(row.name, func(t *testing.T) {
			made, err := MkdirAll(top+"/"+row.path, 0o755)
			for i, name := range row.made {
				row.made[i] = at(name)
			}
			if !slices.Equal(made, row.made) || !errors.Is(err, row.err) {
				t.Errorf("made %q, %v", made, err)
			}
		})
	}
}
