package publisher

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
)

// threeReleases publishes v1, v2 and v3, of which each has another rootfs.
func threeReleases(t *testing.T) (w *world, rootfs map[string][]byte) {
	t.Helper()
	w, rootfs = newWorld(t), map[string][]byte{}
	for i, version := range []string{"v1", "v2", "v3"} {
		data := bytes.Repeat([]byte(version+" of the root filesystem\n"), 50_000)
		w.write("artifacts/rootfs", data)
		rootfs[version] = data
		w.add(w.sign(int64(i+1), version, w.release))
	}
	return w, rootfs
}

func (w *world) getOptions() GetOptions {
	return GetOptions{Store: w.path("store"), Repo: w.repo(), Channel: "stable", Out: w.path("got")}
}

func TestGetWritesTheFilesOfARelease(t *testing.T) {
	t.Parallel()
	w, rootfs := threeReleases(t)
	for _, row := range []struct {
		name      string
		edit      func(o *GetOptions)
		want      string
		published bool
	}{
		{"the published one", func(*GetOptions) {}, "v3", true},
		{"an older one by its name", func(o *GetOptions) { o.Release = "v1" }, "v1", false},
		{"an older one by its role version", func(o *GetOptions) { o.Version, o.Arch = 2, "x86_64" }, "v2", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := w.getOptions()
			o.Out = w.path("got-" + row.want)
			row.edit(&o)
			for range 2 { // the second finds what the first wrote
				got, err := Get(t.Context(), o)
				check(t, err)
				if got.Version != row.want || got.Published != row.published || len(got.Files) != 5 || got.Cmdline != "console=ttyS0" {
					t.Errorf("got %+v", got)
				}
			}
			if !bytes.Equal(w.read("got-"+row.want+"/rootfs"), rootfs[row.want]) || len(w.read("got-"+row.want+"/job/hello.wasm")) != 100 {
				t.Error("the files differ from what was signed")
			}
			check(t, os.Rename(w.path("artifacts"), w.path("away")))
			check(t, os.Rename(o.Out, w.path("artifacts")))
			if again := w.sign(4, row.want, w.release); len(again) == 0 { // an old release is signed again
				t.Error("nothing was signed")
			}
			check(t, os.Rename(w.path("artifacts"), o.Out))
			check(t, os.Rename(w.path("away"), w.path("artifacts")))
		})
	}
	o := w.getOptions()
	o.Role = "kernel"
	if got, err := Get(t.Context(), o); err != nil || len(got.Files) != 1 || len(w.read("got/kernel")) != 300_000 {
		t.Errorf("one role: %+v, %v", got, err)
	}
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		spoil func(w *world, o *GetOptions)
		want  error
	}{
		{"a channel that is not there", func(_ *world, o *GetOptions) { o.Channel = "edge" }, fs.ErrNotExist},
		{"a release that is not there", func(_ *world, o *GetOptions) { o.Release = "v9" }, fs.ErrNotExist},
		{"an architecture that is not there", func(_ *world, o *GetOptions) { o.Arch = "arm64" }, fs.ErrNotExist},
		{"a role that is not there", func(_ *world, o *GetOptions) { o.Role = "dtb/x.dtb" }, fs.ErrInvalid},
		{"another file under the name", func(w *world, _ *GetOptions) { w.write("got/kernel", []byte("mine")) }, fs.ErrExist},
		{"another file under the manifest's name", func(w *world, _ *GetOptions) { w.write("got/release.json", []byte("mine")) }, fs.ErrExist},
		{"a file of another release beside one role", func(w *world, o *GetOptions) {
			w.write("got/kernel", []byte("mine"))
			o.Role = "rootfs"
		}, fs.ErrExist},
		{"another manifest beside one role", func(w *world, o *GetOptions) {
			w.write("got/release.json", []byte("mine"))
			o.Role = "rootfs"
		}, fs.ErrExist},
		{"a device tree that the release has not", func(w *world, _ *GetOptions) { w.write("got/dtb/x.dtb", []byte("other")) }, fs.ErrExist},
		{"a job that the release has not", func(w *world, o *GetOptions) {
			w.write("got/job/other.wasm", []byte("other"))
			o.Role = "kernel"
		}, fs.ErrExist},
		{"a release that gc took", func(w *world, o *GetOptions) {
			_, err := Collect(w.t.Context(), CareOptions{Store: o.Store, Repo: o.Repo, Keep: 1})
			check(w.t, err)
			o.Release = "v1"
		}, fs.ErrNotExist},
		{"a truncated pack", func(w *world, o *GetOptions) {
			check(w.t, os.Truncate(w.path("store/pack-00000001.car"), 400_000))
		}, cas.ErrCorrupt},
		{"an older release of a truncated pack", func(w *world, o *GetOptions) {
			check(w.t, os.Truncate(w.path("store/pack-00000001.car"), 300_000))
			o.Release = "v1"
		}, cas.ErrCorrupt},
		{"a damaged block", func(w *world, o *GetOptions) {
			pack := w.read("store/pack-00000001.car")
			pack[len(pack)-100] ^= 1
			w.write("store/pack-00000001.car", pack)
		}, cas.ErrCorrupt},
		{"a manifest that a stranger put there", func(w *world, o *GetOptions) {
			w.write("repo/7.stable-x86_64.json", w.sign(7, "evil", newKey(w.t)))
			o.Release = "evil"
		}, manifest.ErrSignature},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, _ := threeReleases(t)
			o := w.getOptions()
			row.spoil(w, &o)
			before := names(t, o.Out)
			got, err := Get(t.Context(), o)
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
	check(t, err)
	return list
}

// Files of the release that are there stay as they are, and what else lies there does no harm.
func TestGetWritesNothingTwice(t *testing.T) {
	t.Parallel()
	w, _ := threeReleases(t)
	o := w.getOptions()
	w.write("got/notes", []byte("mine"))
	_, err := Get(t.Context(), o)
	check(t, err)
	stamp := func(name string) time.Time {
		info, err := os.Stat(w.path("got/" + name))
		check(t, err)
		return info.ModTime()
	}
	kernel, release := stamp("kernel"), stamp(ManifestFile)
	check(t, os.Remove(w.path("got/rootfs")))
	got, err := Get(t.Context(), o)
	check(t, err)
	for _, f := range got.Files {
		if f.Kept != (f.Role != "rootfs") {
			t.Errorf("%s: kept %t", f.Path, f.Kept)
		}
	}
	if stamp("kernel") != kernel || stamp(ManifestFile) != release {
		t.Error("a file that was there was written again")
	}
}

// Release keys were replaced since: an older release was signed by the old ones.
func TestGetTakesWhatTheReplacedReleaseKeysSigned(t *testing.T) {
	t.Parallel()
	w, rootfs := threeReleases(t)
	w.release, w.online = newKey(t), newKey(t)
	w.nextRoot(2, w.root)
	w.nextTargets(2)
	w.add(w.sign(4, "v4", w.release))
	o := w.getOptions()
	o.Release = "v2"
	got, err := Get(t.Context(), o)
	if check(t, err); got.Version != "v2" || !bytes.Equal(w.read("got/rootfs"), rootfs["v2"]) {
		t.Errorf("got %+v", got)
	}
}
