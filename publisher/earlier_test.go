package publisher

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/mirror"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// rolledOut publishes v1, and then v2 for 5 % of the machines, with v1 beside it. It returns the manifest of v2.
func rolledOut(t *testing.T) (w *world, v2 []byte) {
	w = newWorld(t)
	v1 := w.Sign(1, "v1", w.Release)
	w.Add(v1)
	d, err := manifest.Open(v1)
	pubtest.Check(t, err)
	five := 5
	w.Change = func(r *manifest.Release) {
		earlier := *d.Release()
		earlier.First = 1
		r.Rollout, r.Earlier = &manifest.Rollout{Percent: &five}, []manifest.Release{earlier}
	}
	pubtest.Check(t, os.CopyFS(w.Path("old"), os.DirFS(w.Path("artifacts"))))
	w.Next(2, "v2")
	pubtest.Check(t, os.Remove(w.Path("repo/1.stable-x86_64.json")))
	return w, w.Read("repo/2.stable-x86_64.json")
}

// The artifacts of an earlier release beside the newest are kept, checked, exported and announced as its own are.
func TestArtifactsOfEarlierReleasesAreKept(t *testing.T) {
	t.Parallel()
	w, _ := rolledOut(t)
	o := store.Options{Store: w.Path("store"), Repo: w.Repo(), Keep: 1}
	stats, err := store.ReadStats(t.Context(), o)
	if err != nil || stats.Wasted != 0 || len(stats.Releases) != 1 || !stats.Releases[0].Complete {
		t.Errorf("%+v, %v", stats, err)
	}
	if done, err := store.GC(t.Context(), o); err != nil || done.Blocks != 0 {
		t.Errorf("gc removed %d blocks, %v", done.Blocks, err)
	}
	if got, err := store.Fsck(t.Context(), o); err != nil || len(got.Found) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	out, err := mirror.Export(t.Context(), mirror.Options{Store: o.Store, Repo: o.Repo, Out: w.Path("mirror")})
	pubtest.Check(t, err)
	releases, err := repo.Releases(t.Context(), w.Repo())
	pubtest.Check(t, err)
	for _, r := range releases[0].All() {
		for _, a := range r.Artifacts {
			if _, err := os.Stat(w.Path("mirror/ipfs/" + a.CID.String())); err != nil {
				t.Errorf("%s of %s: %v (%+v)", a.Role, r.Version, err, out)
			}
		}
	}
	got, err := store.Get(t.Context(), store.GetOptions{Store: o.Store, Repo: o.Repo, Channel: "stable", Release: "v1", Out: w.Path("got")})
	if err != nil || !got.Published || got.Version != "v1" || string(w.Read("got/rootfs")) != string(w.Read("old/rootfs")) {
		t.Errorf("%s, %v", got.Version, err)
	}
	pubtest.Check(t, os.RemoveAll(w.Path("got")))
	got, err = store.Get(t.Context(), store.GetOptions{Store: o.Store, Repo: o.Repo, Channel: "stable", Out: w.Path("got")})
	if err != nil || got.Version != "v2" {
		t.Errorf("the published one: %s, %v", got.Version, err)
	}
}

// A new store needs the files of the earlier releases too; a store that has them does not.
func TestANewStoreNeedsTheFilesOfEarlierReleases(t *testing.T) {
	t.Parallel()
	w, v2 := rolledOut(t)
	opts := w.AddOptions(v2)
	opts.Store = w.Path("new")
	pubtest.Check(t, os.Mkdir(opts.Store, 0o755))
	_, err := ingest.Add(t.Context(), opts)
	if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), `earlier release "v1", artifact rootfs`) || !strings.Contains(err.Error(), "--artifacts") {
		t.Fatalf("got %v", err)
	}
	if left, err := os.ReadDir(opts.Store); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	pubtest.Check(t, os.Rename(w.Path("old"), w.Path("artifacts/v1")))
	if _, err := ingest.Add(t.Context(), opts); err != nil {
		t.Error(err)
	}
	if got, err := store.Fsck(t.Context(), store.Options{Store: opts.Store, Repo: w.Repo()}); err != nil || len(got.Found) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	opts.Store, opts.Artifacts = w.Path("store"), ""
	if _, err := ingest.Add(t.Context(), opts); err != nil {
		t.Errorf("the store has all: %v", err)
	}
}
