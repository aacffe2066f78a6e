package ingest_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

func TestAFailedFirstAddLeavesNoStore(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		store string // in the folder of the test
		spoil func(w *pubtest.World, o *ingest.Options)
	}{
		{"an artifact is not the signed one", "store", func(w *pubtest.World, _ *ingest.Options) { w.Write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"in a folder of folders", "a/b/store", func(w *pubtest.World, _ *ingest.Options) { w.Write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"in a folder that the operator made", "made", func(w *pubtest.World, _ *ingest.Options) { w.Write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"the repository cannot be written", "store", func(w *pubtest.World, _ *ingest.Options) { pubtest.Check(w.T, os.Mkdir(w.Path("repo/.lock"), 0o755)) }},
		{"no artifacts at all", "store", func(_ *pubtest.World, o *ingest.Options) { o.Artifacts = "" }},
		{"interrupted", "store", func(w *pubtest.World, o *ingest.Options) {
			o.Watch = func(string, int64, io.Reader) ingest.Watched {
				return &watchedFile{Reader: iotest.ErrReader(context.Canceled)}
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := pubtest.New(t)
			pubtest.Check(t, os.Mkdir(w.Path("made"), 0o755))
			opts := w.AddOptions(w.Sign(1, "v1", w.Release))
			opts.Store = w.Path(row.store)
			row.spoil(w, &opts)
			if _, err := ingest.Add(t.Context(), opts); err == nil {
				t.Fatal("it did not fail")
			}
			if left, err := os.ReadDir(w.Path("made")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			for _, name := range []string{"store", "a"} {
				if _, err := os.Lstat(w.Path(name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s remains: %v", name, err)
				}
			}
		})
	}
}

// Before the first release any folder may become the store. Its files are kept.
func TestAFailedFirstAddKeepsForeignFiles(t *testing.T) {
	t.Parallel()
	w := pubtest.New(t)
	w.Write("home/notes.txt", []byte("a person's"))
	w.Write("home/letters/1.txt", []byte("a person's too"))
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Store = w.Path("home")
	w.Write("artifacts/rootfs", make([]byte, 3_000_000))
	before := pubtest.FilesOf(t, w.Path("home"))
	if _, err := ingest.Add(t.Context(), opts); err == nil {
		t.Fatal("it did not fail")
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Path("home")))
}

// An add that fails for a store that is there, or after a release was published, takes nothing
// away.
func TestAFailedAddKeepsAnExistingStore(t *testing.T) {
	t.Parallel()
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	before := pubtest.FilesOf(t, w.Path("store"))
	w.Write("artifacts/rootfs", make([]byte, 3_000_000))
	release := w.Sign(2, "v2", w.Release)
	w.Write("artifacts/rootfs", make([]byte, 10))
	if _, err := ingest.Add(t.Context(), w.AddOptions(release)); err == nil {
		t.Fatal("it did not fail")
	}
	for name, data := range before {
		if got, err := os.ReadFile(name); filepath.Ext(name) == ".car" && (err != nil || string(got[:len(data)]) != data) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
