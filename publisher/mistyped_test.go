package publisher

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/mirror"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// Every command refuses a mistyped name of the store or of the repository.
func TestAMistypedNameIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	pubtest.Check(t, os.Mkdir(w.Path("empty"), 0o755))
	verbs := map[string]func(dir, repo string) error{
		"status": func(dir, repo string) error {
			_, err := store.ReadStatus(t.Context(), store.StatusOptions{Store: dir, Repo: repo})
			return err
		},
		"fsck": func(dir, repo string) error {
			_, err := store.Fsck(t.Context(), store.Options{Store: dir, Repo: repo})
			return err
		},
		"gc": func(dir, repo string) error {
			_, err := store.GC(t.Context(), store.Options{Store: dir, Repo: repo, Keep: 1})
			return err
		},
		"stats": func(dir, repo string) error {
			_, err := store.ReadStats(t.Context(), store.Options{Store: dir, Repo: repo, Keep: 1})
			return err
		},
		"export": func(dir, repo string) error {
			_, err := mirror.Export(t.Context(), mirror.Options{Store: dir, Repo: repo, Out: w.Path("mirror")})
			return err
		},
		"get": func(dir, repo string) error {
			_, err := store.Get(t.Context(), store.GetOptions{Store: dir, Repo: repo, Channel: "stable", Out: w.Path("got")})
			return err
		},
		"serve": func(dir, repo string) error {
			o := w.serveOptions()
			o.Store, o.Repo, o.Ready = dir, repo, func(Ready) error { return errors.New("ready") }
			return Serve(t.Context(), o)
		},
		"add": func(dir, repo string) error {
			o := w.AddOptions(w.Sign(2, "v2", w.Release))
			o.Store, o.Repo = dir, repo
			_, err := ingest.Add(t.Context(), o)
			return err
		},
	}
	for verb, run := range verbs {
		for _, row := range []struct{ name, store, repo string }{
			{"no such store", "nowhere", "repo"},
			{"an empty folder", "empty", "repo"},
			{"a folder with other things", "artifacts", "repo"},
			{"no such repository", "store", "nowhere"},
			{"an empty folder as repository", "store", "empty"},
			{"both for each other", "repo", "store"},
		} {
			if verb == "add" && row.store == "empty" {
				continue // an empty folder is a new store on purpose
			}
			before := pubtest.FilesOf(t, w.Dir)
			if err := run(w.Path(row.store), w.Path(row.repo)); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s, %s: %v", verb, row.name, err)
			}
			pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Dir))
		}
	}
}
