package publisher

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

func TestAFailedFirstAddLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		store string // below the world
		spoil func(w *world, o *AddOptions)
	}{
		{"an artifact is not the signed one", "store", func(w *world, _ *AddOptions) { w.write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"in a folder of folders", "a/b/store", func(w *world, _ *AddOptions) { w.write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"in a folder that the operator made", "made", func(w *world, _ *AddOptions) { w.write("artifacts/rootfs", make([]byte, 3_000_000)) }},
		{"the repository cannot be written", "store", func(w *world, _ *AddOptions) { check(w.t, os.Mkdir(w.path("repo/.lock"), 0o755)) }},
		{"no artifacts at all", "store", func(_ *world, o *AddOptions) { o.Artifacts = "" }},
		{"interrupted", "store", func(w *world, o *AddOptions) {
			o.Watch = func(_ string, _ int64, r io.Reader) Watched {
				return &watchedFile{Reader: interruptible{canceled(), r}}
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			check(t, os.Mkdir(w.path("made"), 0o755))
			opts := w.options(w.sign(1, "v1", w.release))
			opts.Store = w.path(row.store)
			row.spoil(w, &opts)
			if _, err := Add(t.Context(), opts); err == nil {
				t.Fatal("it did not fail")
			}
			if left, err := os.ReadDir(w.path("made")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			for _, name := range []string{"store", "a"} {
				if _, err := os.Lstat(w.path(name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", name, err)
				}
			}
		})
	}
}

// Nothing was published, so any folder may become the store. What a person has there stays.
func TestAFailedFirstAddLeavesWhatAPersonHasThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("home/notes.txt", []byte("a person's"))
	w.write("home/letters/1.txt", []byte("a person's too"))
	opts := w.options(w.sign(1, "v1", w.release))
	opts.Store = w.path("home")
	w.write("artifacts/rootfs", make([]byte, 3_000_000))
	before := snapshotOf(t, w.path("home"))
	if _, err := Add(t.Context(), opts); err == nil {
		t.Fatal("it did not fail")
	}
	unchanged(t, before, snapshotOf(t, w.path("home")))
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// An add that fails for a store that is there, or after a release was published, takes nothing
// away.
func TestAFailedAddLeavesAStoreThatWasThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	before := snapshotOf(t, w.path("store"))
	w.write("artifacts/rootfs", make([]byte, 3_000_000))
	release := w.sign(2, "v2", w.release)
	w.write("artifacts/rootfs", make([]byte, 10))
	if _, err := Add(t.Context(), w.options(release)); err == nil {
		t.Fatal("it did not fail")
	}
	for name, data := range before {
		if got, err := os.ReadFile(name); filepath.Ext(name) == ".car" && (err != nil || string(got[:len(data)]) != data) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A slip in the name of the store or of the repository is refused by everything that reads.
func TestASlipOfANameIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	check(t, os.Mkdir(w.path("empty"), 0o755))
	verbs := map[string]func(store, repo string) error{
		"status": func(store, repo string) error {
			_, err := ReadStatus(t.Context(), StatusOptions{Store: store, Repo: repo})
			return err
		},
		"fsck": func(store, repo string) error {
			_, err := Fsck(t.Context(), CareOptions{Store: store, Repo: repo})
			return err
		},
		"gc": func(store, repo string) error {
			_, err := Collect(t.Context(), CareOptions{Store: store, Repo: repo, Keep: 1})
			return err
		},
		"stats": func(store, repo string) error {
			_, err := ReadStoreStats(t.Context(), CareOptions{Store: store, Repo: repo, Keep: 1})
			return err
		},
		"export": func(store, repo string) error {
			_, err := Export(t.Context(), ExportOptions{Store: store, Repo: repo, Out: w.path("mirror")})
			return err
		},
		"get": func(store, repo string) error {
			_, err := Get(t.Context(), GetOptions{Store: store, Repo: repo, Channel: "stable", Out: w.path("got")})
			return err
		},
		"serve": func(store, repo string) error {
			o := w.serveOptions()
			o.Store, o.Repo, o.Ready = store, repo, func(Ready) error { return errors.New("ready") }
			return Serve(t.Context(), o)
		},
		"add": func(store, repo string) error {
			o := w.options(w.sign(2, "v2", w.release))
			o.Store, o.Repo = store, repo
			_, err := Add(t.Context(), o)
			return err
		},
	}
	for verb, run := range verbs {
		for _, slip := range []struct{ name, store, repo string }{
			{"no such store", "nowhere", "repo"},
			{"an empty folder", "empty", "repo"},
			{"a folder with other things", "artifacts", "repo"},
			{"no such repository", "store", "nowhere"},
			{"an empty folder as repository", "store", "empty"},
			{"both for each other", "repo", "store"},
		} {
			if verb == "add" && slip.store == "empty" {
				continue // it says that a new store is meant
			}
			before := snapshotOf(t, w.dir)
			if err := run(w.path(slip.store), w.path(slip.repo)); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s, %s: %v", verb, slip.name, err)
			}
			unchanged(t, before, snapshotOf(t, w.dir))
		}
	}
}
