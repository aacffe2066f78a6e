package publisher

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// twoReleases is a world with two releases in its store and the folder of the packs.
func twoReleases(t *testing.T) (*world, CareOptions) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.write("artifacts/rootfs", append(w.read("artifacts/rootfs"), "more"...))
	w.add(w.sign(2, "v2", w.release))
	return w, CareOptions{Store: w.path("store"), Repo: w.repo(), Keep: 1}
}

func copyStore(t *testing.T, w *world, name string) {
	t.Helper()
	check(t, os.CopyFS(w.path(name), os.DirFS(w.path("store"))))
}

func TestFsckNamesWhatIsLostAndMendsItFromAPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(w *world)
		says  string
	}{
		{"a flipped byte", func(w *world) {
			b := w.read("store/pack-00000001.car")
			b[len(b)/2] ^= 1
			w.write("store/pack-00000001.car", b)
		}, "hash to"},
		{"a pack without an end", func(w *world) {
			check(t, os.Truncate(w.path("store/pack-00000001.car"), 1_000_000))
		}, "no section"},
		{"a pack that is gone", func(w *world) {
			check(t, os.Remove(w.path("store/pack-00000001.car")))
			check(t, os.Remove(w.path("store/pack-00000001.idx")))
		}, "in no pack"},
		{"a garbled header", func(w *world) {
			b := w.read("store/pack-00000001.car")
			b[5] ^= 1
			w.write("store/pack-00000001.car", b)
		}, "not a pack of ours"},
		{"a garbled index", func(w *world) {
			b := w.read("store/pack-00000001.idx")
			b[len(b)/2] ^= 1
			w.write("store/pack-00000001.idx", b)
		}, "checksum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, o := twoReleases(t)
			o.Keep = 0
			copyStore(t, w, "peer")
			if got, err := Fsck(t.Context(), o); err != nil || len(got.Found) > 0 || got.Releases != 2 {
				t.Fatalf("sound: %+v, %v", got, err)
			}
			tt.spoil(w)
			got, err := Fsck(t.Context(), o)
			if !errors.Is(err, cas.ErrCorrupt) || len(got.Found) == 0 || len(got.Left) != len(got.Found) {
				t.Fatalf("spoilt: %+v, %v", got, err)
			}
			said, hurt := false, false
			for _, l := range got.Found {
				said = said || strings.Contains(l.Cause, tt.says)
				hurt = hurt || l.CID == "" || slices.Contains(l.Releases, "stable/x86_64 v1 rootfs")
			}
			if !said || !hurt {
				t.Errorf("%.2000v does not say %q and whom it hurts", got.Found, tt.says)
			}
			peer, err := cas.OpenPacks(w.path("peer"), cas.PackOptions{ReadOnly: true})
			check(t, err)
			defer peer.Close()
			o.Peer = peer
			if got, err = Fsck(t.Context(), o); err != nil || len(got.Left) > 0 {
				t.Fatalf("mended: %+v, %v", got.Left, err)
			}
			o.Peer = nil
			if got, err = Fsck(t.Context(), o); err != nil || len(got.Found) > 0 {
				t.Errorf("after: %+v, %v", got, err)
			}
		})
	}
}

func TestFsckLooksForTheReleasesThatCollectLeft(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	other := w.read("artifacts/rootfs")
	for i := range other {
		other[i] ^= 0xff
	}
	w.write("artifacts/rootfs", other)
	w.add(w.sign(3, "v3", w.release))
	if _, err := Collect(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got, err := Fsck(t.Context(), o); err != nil || got.Releases != 1 {
		t.Errorf("with the same number: %+v, %v", got, err)
	}
	stats, err := ReadStoreStats(t.Context(), o)
	if check(t, err); !stats.Releases[0].Whole || stats.Releases[1].Whole || stats.Releases[2].Whole {
		t.Errorf("%+v", stats.Releases)
	}
	o.Keep = 2
	if got, err := Fsck(t.Context(), o); !errors.Is(err, cas.ErrCorrupt) || len(got.Left) == 0 || !strings.Contains(err.Error(), "name its --keep") {
		t.Errorf("with one more: %+v, %v", got, err)
	}
}

func TestCollectKeepsReleasesAndPins(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	first, err := keptReleases(t.Context(), w.repo(), 0)
	check(t, err)
	if len(first) != 2 || first[0].Version != "v2" {
		t.Fatalf("kept %+v", first)
	}
	old, _ := first[1].Artifact("rootfs")
	o.Pins = []cid.Cid{old.CID}
	if done, err := Collect(t.Context(), o); err != nil || done.Blocks != 0 {
		t.Errorf("with the old rootfs pinned: %+v, %v", done, err)
	}
	o.Pins = nil
	both := o
	both.Keep = 2
	stats, err := ReadStoreStats(t.Context(), both)
	check(t, err)
	if stats.Wasted != 0 || len(stats.Releases) != 2 || stats.Releases[0].Shared == 0 || stats.Releases[0].Shared >= stats.Releases[0].Bytes {
		t.Errorf("%+v", stats)
	}
	check(t, os.Remove(filepath.Join(w.repo(), "1.stable-x86_64.json")))
	if stats, err = ReadStoreStats(t.Context(), o); err != nil || stats.Wasted == 0 {
		t.Errorf("without the old release: %+v, %v", stats, err)
	}
	if done, err := Collect(t.Context(), o); err != nil || done.Bytes+done.LeftBytes != stats.Wasted {
		t.Errorf("%+v of %d wasted, %v", done, stats.Wasted, err)
	}
	if got, err := Fsck(t.Context(), o); err != nil || got.Releases != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	o.Pins = []cid.Cid{cas.Sum(cid.Raw, []byte("never"))}
	if _, err := Collect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nothing was removed") {
		t.Errorf("a pin that is not there: %v", err)
	}
}

// stats and gc follow one rule, whatever is kept and pinned, and a dry run changes nothing.
func TestStatsCountWhatCollectRemoves(t *testing.T) {
	t.Parallel()
	for keep := 1; keep <= 3; keep++ {
		for _, pinned := range []bool{false, true} {
			w, _ := threeReleases(t)
			o := CareOptions{Store: w.path("store"), Repo: w.repo(), Keep: keep}
			releases, err := keptReleases(t.Context(), w.repo(), 0)
			check(t, err)
			if pinned {
				oldest, _ := releases[2].Artifact("rootfs")
				o.Pins = []cid.Cid{oldest.CID}
			}
			stats, err := ReadStoreStats(t.Context(), o)
			check(t, err)
			for i, r := range stats.Releases {
				if r.Kept != (i < keep) {
					t.Errorf("keep %d: %+v", keep, r)
				}
			}
			before := snapshotOf(t, w.path("store"))
			dry := o
			dry.Dry = true
			would, err := Collect(t.Context(), dry)
			check(t, err)
			unchanged(t, before, snapshotOf(t, w.path("store")))
			done, err := Collect(t.Context(), o)
			if check(t, err); done != would || done.Bytes+done.LeftBytes != stats.Wasted || (stats.Wasted > 0) != (keep == 1 || keep == 2 && !pinned) {
				t.Errorf("keep %d, pinned %v: stats say %d bytes, a dry run %+v, gc %+v", keep, pinned, stats.Wasted, would, done)
			}
			if again, err := ReadStoreStats(t.Context(), o); err != nil || again.Wasted != done.LeftBytes {
				t.Errorf("keep %d, pinned %v: afterwards %d bytes, %d were left, %v", keep, pinned, again.Wasted, done.LeftBytes, err)
			}
		}
	}
}

func TestCollectRefusesARepositoryWithoutARelease(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	before := snapshotOf(t, o.Store)
	o.Repo = newWorld(t).repo()
	if done, err := Collect(t.Context(), o); !errors.Is(err, fs.ErrNotExist) || done.Blocks != 0 || !strings.Contains(err.Error(), "names no release") {
		t.Errorf("%+v, %v", done, err)
	}
	if got := snapshotOf(t, o.Store); got[w.path("store/pack-00000001.car")] != before[w.path("store/pack-00000001.car")] {
		t.Error("the store changed")
	}
}
