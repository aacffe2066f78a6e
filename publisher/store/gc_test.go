package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestGCKeepsReleasesAndPins(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	first, err := repo.Releases(t.Context(), w.Repo())
	pubtest.Check(t, err)
	if len(first) != 2 || first[0].Version != "v2" {
		t.Fatalf("kept %+v", first)
	}
	old, _ := first[1].Artifact("rootfs")
	o.Pins = []cid.Cid{old.CID}
	if done, err := store.GC(t.Context(), o); err != nil || done.Blocks != 0 {
		t.Errorf("with the old rootfs pinned: %+v, %v", done, err)
	}
	o.Pins = nil
	both := o
	both.Keep = 2
	stats, err := store.ReadStats(t.Context(), both)
	pubtest.Check(t, err)
	if stats.Wasted != 0 || len(stats.Releases) != 2 || stats.Releases[0].Shared == 0 || stats.Releases[0].Shared >= stats.Releases[0].Bytes {
		t.Errorf("%+v", stats)
	}
	pubtest.Check(t, os.Remove(filepath.Join(w.Repo(), "1.stable-x86_64.json")))
	if stats, err = store.ReadStats(t.Context(), o); err != nil || stats.Wasted == 0 {
		t.Errorf("without the old release: %+v, %v", stats, err)
	}
	if done, err := store.GC(t.Context(), o); err != nil || done.Bytes+done.LeftBytes != stats.Wasted {
		t.Errorf("%+v of %d wasted, %v", done, stats.Wasted, err)
	}
	if got, err := store.Fsck(t.Context(), o); err != nil || got.Releases != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	o.Pins = []cid.Cid{cas.Sum(cid.Raw, []byte("never"))}
	if _, err := store.GC(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nothing was removed") {
		t.Errorf("a pin that is not there: %v", err)
	}
}

// stats and gc have one rule for kept releases and pins. A dry run changes nothing.
func TestStatsCountWhatGCRemoves(t *testing.T) {
	t.Parallel()
	for keep := 1; keep <= 3; keep++ {
		for _, pinned := range []bool{false, true} {
			w, _ := threeReleases(t)
			o := store.Options{Store: w.Path("store"), Repo: w.Repo(), Keep: keep}
			releases, err := repo.Releases(t.Context(), w.Repo())
			pubtest.Check(t, err)
			if pinned {
				oldest, _ := releases[2].Artifact("rootfs")
				o.Pins = []cid.Cid{oldest.CID}
			}
			stats, err := store.ReadStats(t.Context(), o)
			pubtest.Check(t, err)
			for i, r := range stats.Releases {
				if r.Kept != (i < keep) {
					t.Errorf("keep %d: %+v", keep, r)
				}
			}
			before := pubtest.FilesOf(t, w.Path("store"))
			dry := o
			dry.Dry = true
			would, err := store.GC(t.Context(), dry)
			pubtest.Check(t, err)
			pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Path("store")))
			done, err := store.GC(t.Context(), o)
			if pubtest.Check(t, err); done != would || done.Bytes+done.LeftBytes != stats.Wasted || (stats.Wasted > 0) != (keep == 1 || keep == 2 && !pinned) {
				t.Errorf("keep %d, pinned %v: stats say %d bytes, a dry run %+v, gc %+v", keep, pinned, stats.Wasted, would, done)
			}
			if again, err := store.ReadStats(t.Context(), o); err != nil || again.Wasted != done.LeftBytes {
				t.Errorf("keep %d, pinned %v: afterwards %d bytes, %d were left, %v", keep, pinned, again.Wasted, done.LeftBytes, err)
			}
		}
	}
}

// Roll-outs and renewals sign the same content again. These manifests are one release for gc, stats and
// fsck, so that the release before is left for a rollback.
func TestManifestsOfOneContentCountOnce(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	for number := int64(3); number <= 5; number++ {
		w.Add(w.Sign(number, "v2", w.Release))
	}
	o.Keep = 2
	stats, err := store.ReadStats(t.Context(), o)
	pubtest.Check(t, err)
	for _, r := range stats.Releases {
		if !r.Kept {
			t.Errorf("stats: %+v", r)
		}
	}
	if done, err := store.GC(t.Context(), o); err != nil || done.Blocks != 0 || stats.Wasted != 0 {
		t.Errorf("gc: %+v of %d wasted, %v", done, stats.Wasted, err)
	}
	if got, err := store.Fsck(t.Context(), o); err != nil || got.Releases != 2 {
		t.Errorf("fsck: %+v, %v", got, err)
	}
	o.Keep = 1
	if stats, err = store.ReadStats(t.Context(), o); err != nil || stats.Wasted == 0 || !stats.Releases[3].Kept || stats.Releases[4].Kept {
		t.Errorf("stats of one: %+v, %v", stats, err)
	}
	if done, err := store.GC(t.Context(), o); err != nil || done.Bytes+done.LeftBytes != stats.Wasted {
		t.Errorf("gc of one: %+v of %d wasted, %v", done, stats.Wasted, err)
	}
}

func TestGCRefusesARepositoryWithoutARelease(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	before := pubtest.FilesOf(t, o.Store)
	o.Repo = pubtest.New(t).Repo()
	if done, err := store.GC(t.Context(), o); !errors.Is(err, fs.ErrNotExist) || done.Blocks != 0 || !strings.Contains(err.Error(), "names no release") {
		t.Errorf("%+v, %v", done, err)
	}
	if got := pubtest.FilesOf(t, o.Store); got[w.Path("store/pack-00000001.car")] != before[w.Path("store/pack-00000001.car")] {
		t.Error("the store changed")
	}
}
