package store_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// twoReleases makes a repository and a store with two releases.
func twoReleases(t *testing.T) (*pubtest.World, store.Options) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.Write("artifacts/rootfs", append(w.Read("artifacts/rootfs"), "more"...))
	w.Add(w.Sign(2, "v2", w.Release))
	return w, store.Options{Store: w.Path("store"), Repo: w.Repo(), Keep: 1}
}

func copyStore(t *testing.T, w *pubtest.World, name string) {
	t.Helper()
	pubtest.Check(t, os.CopyFS(w.Path(name), os.DirFS(w.Path("store"))))
}

func TestFsckNamesFaultsAndRepairsThemFromAPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(w *pubtest.World)
		says  string
	}{
		{"a flipped byte", func(w *pubtest.World) {
			b := w.Read("store/pack-00000001.car")
			b[len(b)/2] ^= 1
			w.Write("store/pack-00000001.car", b)
		}, "hash to"},
		{"a pack without an end", func(w *pubtest.World) {
			pubtest.Check(t, os.Truncate(w.Path("store/pack-00000001.car"), 1_000_000))
		}, "no section"},
		{"a pack that is gone", func(w *pubtest.World) {
			pubtest.Check(t, os.Remove(w.Path("store/pack-00000001.car")))
			pubtest.Check(t, os.Remove(w.Path("store/pack-00000001.idx")))
		}, "in no pack"},
		{"a garbled header", func(w *pubtest.World) {
			b := w.Read("store/pack-00000001.car")
			b[5] ^= 1
			w.Write("store/pack-00000001.car", b)
		}, "not a pack"},
		{"a garbled index", func(w *pubtest.World) {
			b := w.Read("store/pack-00000001.idx")
			b[len(b)/2] ^= 1
			w.Write("store/pack-00000001.idx", b)
		}, "checksum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, o := twoReleases(t)
			o.Keep = 0
			copyStore(t, w, "peer")
			if got, err := store.Fsck(t.Context(), o); err != nil || len(got.Found) > 0 || got.Releases != 2 {
				t.Fatalf("at first: %+v, %v", got, err)
			}
			tt.spoil(w)
			got, err := store.Fsck(t.Context(), o)
			if !errors.Is(err, cas.ErrCorrupt) || len(got.Found) == 0 || len(got.Left) != len(got.Found) {
				t.Fatalf("spoilt: %+v, %v", got, err)
			}
			said, needed := false, false
			for _, l := range got.Found {
				said = said || strings.Contains(l.Cause, tt.says)
				needed = needed || l.CID == "" || slices.Contains(l.Releases, "stable/x86_64 v1 rootfs")
			}
			if !said || !needed {
				t.Errorf("%.2000v does not have %q and the release that needs it", got.Found, tt.says)
			}
			peer, err := pack.Open(w.Path("peer"), pack.Options{ReadOnly: true})
			pubtest.Check(t, err)
			defer peer.Close()
			o.Peer = peer
			if got, err = store.Fsck(t.Context(), o); err != nil || len(got.Left) > 0 {
				t.Fatalf("repaired: %+v, %v", got.Left, err)
			}
			o.Peer = nil
			if got, err = store.Fsck(t.Context(), o); err != nil || len(got.Found) > 0 {
				t.Errorf("after: %+v, %v", got, err)
			}
		})
	}
}

func TestFsckChecksTheReleasesThatGCKept(t *testing.T) {
	t.Parallel()
	w, o := twoReleases(t)
	other := w.Read("artifacts/rootfs")
	for i := range other {
		other[i] ^= 0xff
	}
	w.Write("artifacts/rootfs", other)
	w.Add(w.Sign(3, "v3", w.Release))
	if _, err := store.GC(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Fsck(t.Context(), o); err != nil || got.Releases != 1 {
		t.Errorf("with the same number: %+v, %v", got, err)
	}
	stats, err := store.ReadStats(t.Context(), o)
	if pubtest.Check(t, err); !stats.Releases[0].Complete || stats.Releases[1].Complete || stats.Releases[2].Complete {
		t.Errorf("%+v", stats.Releases)
	}
	o.Keep = 2
	if got, err := store.Fsck(t.Context(), o); !errors.Is(err, cas.ErrCorrupt) || len(got.Left) == 0 || !strings.Contains(err.Error(), "use its --keep") {
		t.Errorf("with one more: %+v, %v", got, err)
	}
}
