package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// threeReleases publishes v1, v2 and v3, of which each has another rootfs.
func threeReleases(t *testing.T) (w *pubtest.World, rootfs map[string][]byte) {
	t.Helper()
	w, rootfs = pubtest.New(t), map[string][]byte{}
	for i, version := range []string{"v1", "v2", "v3"} {
		data := bytes.Repeat([]byte(version+" of the root filesystem\n"), 50_000)
		w.Write("artifacts/rootfs", data)
		rootfs[version] = data
		w.Add(w.Sign(int64(i+1), version, w.Release))
	}
	return w, rootfs
}

func getOptions(w *pubtest.World) store.GetOptions {
	return store.GetOptions{Store: w.Path("store"), Repo: w.Repo(), Channel: "stable", Out: w.Path("got")}
}

func TestGetWritesTheFilesOfARelease(t *testing.T) {
	t.Parallel()
	w, rootfs := threeReleases(t)
	for _, row := range []struct {
		name      string
		edit      func(o *store.GetOptions)
		want      string
		published bool
	}{
		{"the published one", func(*store.GetOptions) {}, "v3", true},
		{"an older one by its name", func(o *store.GetOptions) { o.Release = "v1" }, "v1", false},
		{"an older one by its role version", func(o *store.GetOptions) { o.Version, o.Arch = 2, "x86_64" }, "v2", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := getOptions(w)
			o.Out = w.Path("got-" + row.want)
			row.edit(&o)
			for range 2 { // the second finds what the first wrote
				got, err := store.Get(t.Context(), o)
				pubtest.Check(t, err)
				if got.Version != row.want || got.Published != row.published || len(got.Files) != 5 || got.Cmdline != "console=ttyS0" {
					t.Errorf("got %+v", got)
				}
			}
			if !bytes.Equal(w.Read("got-"+row.want+"/rootfs"), rootfs[row.want]) || len(w.Read("got-"+row.want+"/job/hello.wasm")) != 100 {
				t.Error("the files differ from what was signed")
			}
			pubtest.Check(t, os.Rename(w.Path("artifacts"), w.Path("away")))
			pubtest.Check(t, os.Rename(o.Out, w.Path("artifacts")))
			if again := w.Sign(4, row.want, w.Release); len(again) == 0 { // an old release is signed again
				t.Error("nothing was signed")
			}
			pubtest.Check(t, os.Rename(w.Path("artifacts"), o.Out))
			pubtest.Check(t, os.Rename(w.Path("away"), w.Path("artifacts")))
		})
	}
	o := getOptions(w)
	o.Role = "kernel"
	if got, err := store.Get(t.Context(), o); err != nil || len(got.Files) != 1 || len(w.Read("got/kernel")) != 300_000 {
		t.Errorf("one role: %+v, %v", got, err)
	}
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		spoil func(w *pubtest.World, o *store.GetOptions)
		want  error
	}{
		{"a channel that is not there", func(_ *pubtest.World, o *store.GetOptions) { o.Channel = "edge" }, fs.ErrNotExist},
		{"a release that is not there", func(_ *pubtest.World, o *store.GetOptions) { o.Release = "v9" }, fs.ErrNotExist},
		{"an architecture that is not there", func(_ *pubtest.World, o *store.GetOptions) { o.Arch = "arm64" }, fs.ErrNotExist},
		{"a role that is not there", func(_ *pubtest.World, o *store.GetOptions) { o.Role = "dtb/x.dtb" }, fs.ErrInvalid},
		{"another file under the name", func(w *pubtest.World, _ *store.GetOptions) { w.Write("got/kernel", []byte("mine")) }, fs.ErrExist},
		{"another file under the manifest's name", func(w *pubtest.World, _ *store.GetOptions) { w.Write("got/release.json", []byte("mine")) }, fs.ErrExist},
		{"a file of another release next to one role", func(w *pubtest.World, o *store.GetOptions) {
			w.Write("got/kernel", []byte("mine"))
			o.Role = "rootfs"
		}, fs.ErrExist},
		{"another manifest next to one role", func(w *pubtest.World, o *store.GetOptions) {
			w.Write("got/release.json", []byte("mine"))
			o.Role = "rootfs"
		}, fs.ErrExist},
		{"a device tree that the release does not have", func(w *pubtest.World, _ *store.GetOptions) { w.Write("got/dtb/x.dtb", []byte("other")) }, fs.ErrExist},
		{"a job that the release does not have", func(w *pubtest.World, o *store.GetOptions) {
			w.Write("got/job/other.wasm", []byte("other"))
			o.Role = "kernel"
		}, fs.ErrExist},
		{"a release that gc removed", func(w *pubtest.World, o *store.GetOptions) {
			_, err := store.GC(w.T.Context(), store.Options{Store: o.Store, Repo: o.Repo, Keep: 1})
			pubtest.Check(w.T, err)
			o.Release = "v1"
		}, fs.ErrNotExist},
		{"a truncated pack", func(w *pubtest.World, o *store.GetOptions) {
			pubtest.Check(w.T, os.Truncate(w.Path("store/pack-00000001.car"), 400_000))
		}, cas.ErrCorrupt},
		{"an older release of a truncated pack", func(w *pubtest.World, o *store.GetOptions) {
			pubtest.Check(w.T, os.Truncate(w.Path("store/pack-00000001.car"), 300_000))
			o.Release = "v1"
		}, cas.ErrCorrupt},
		{"a damaged block", func(w *pubtest.World, o *store.GetOptions) {
			pack := w.Read("store/pack-00000001.car")
			pack[len(pack)-100] ^= 1
			w.Write("store/pack-00000001.car", pack)
		}, cas.ErrCorrupt},
		{"a manifest in the folder that an unknown key signed", func(w *pubtest.World, o *store.GetOptions) {
			w.Write("repo/7.stable-x86_64.json", w.Sign(7, "evil", pubtest.NewKey(w.T)))
			o.Release = "evil"
		}, manifest.ErrSignature},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, _ := threeReleases(t)
			o := getOptions(w)
			row.spoil(w, &o)
			before := names(t, o.Out)
			got, err := store.Get(t.Context(), o)
			if after := names(t, o.Out); !slices.Equal(before, after) {
				t.Errorf("the folder held %q, and then %q", before, after)
			}
			if !errors.Is(err, row.want) || row.want == fs.ErrNotExist && errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("got %+v, %v; want %v", got, err, row.want)
			}
		})
	}
}

// names lists what is in a folder, nil when it is not there.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		list = append(list, path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	pubtest.Check(t, err)
	return list
}

// Files of the release that exist are not written again; foreign files are ignored.
func TestGetWritesNothingTwice(t *testing.T) {
	t.Parallel()
	w, _ := threeReleases(t)
	o := getOptions(w)
	w.Write("got/notes", []byte("mine"))
	_, err := store.Get(t.Context(), o)
	pubtest.Check(t, err)
	stamp := func(name string) time.Time {
		info, err := os.Stat(w.Path("got/" + name))
		pubtest.Check(t, err)
		return info.ModTime()
	}
	kernel, release := stamp("kernel"), stamp(store.ManifestFile)
	pubtest.Check(t, os.Remove(w.Path("got/rootfs")))
	got, err := store.Get(t.Context(), o)
	pubtest.Check(t, err)
	for _, f := range got.Files {
		if f.Kept != (f.Role != "rootfs") {
			t.Errorf("%s: kept %t", f.Path, f.Kept)
		}
	}
	if stamp("kernel") != kernel || stamp(store.ManifestFile) != release {
		t.Error("a file that was there was written again")
	}
}

// The release keys were replaced after the release that is read.
func TestGetAcceptsReplacedReleaseKeys(t *testing.T) {
	t.Parallel()
	w, rootfs := threeReleases(t)
	w.Release, w.Online = pubtest.NewKey(t), pubtest.NewKey(t)
	w.NextRoot(2, w.Root)
	w.NextTargets(2)
	w.Add(w.Sign(4, "v4", w.Release))
	o := getOptions(w)
	o.Release = "v2"
	got, err := store.Get(t.Context(), o)
	if pubtest.Check(t, err); got.Version != "v2" || !bytes.Equal(w.Read("got/rootfs"), rootfs["v2"]) {
		t.Errorf("got %+v", got)
	}
}
