package imagebuild

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTemporaryFoldersOfKilledBuildsAreRemovedAndOthersStay(t *testing.T) {
	cache := t.TempDir()
	b, err := New(Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	locked, clean, err := b.tempDir()
	if err != nil {
		t.Fatal(err)
	}
	defer clean()
	killed, fresh := filepath.Join(cache, "tmp-1"), filepath.Join(cache, "tmp-2")
	if err := errors.Join(os.MkdirAll(filepath.Join(killed, "x"), 0o755), os.Mkdir(fresh, 0o755)); err != nil {
		t.Fatal(err)
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Chtimes(killed, hourAgo, hourAgo), os.Chtimes(locked, hourAgo, hourAgo)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Cache: cache}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder of the killed build: %v", err)
	}
	for _, dir := range []string{locked, fresh} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}
