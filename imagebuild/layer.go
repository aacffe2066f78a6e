package imagebuild

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// A layer changes the tar stream of a base system: it adds plasmd, our settings and the
// masked units, and removes what rootfs/trimmed lists.
type layer struct {
	date    time.Time
	files   map[string]tar.Header // by path without "./"
	content map[string][]byte
	removed []string // paths to remove
}

// units is the folder for local systemd units.
const units = "etc/systemd/system/"

// newLayer returns the layer of a flavour. A root filesystem without modules has no udev either; masked-vm
// and layer-vm are for that.
func newLayer(p Platform, plasmd []byte, date time.Time) (*layer, error) {
	l := &layer{date: date, files: map[string]tar.Header{}, content: map[string][]byte{}, removed: dataWords("rootfs/trimmed")}
	masked := dataWords("rootfs/masked")
	err := l.tree("rootfs/layer")
	if len(p.modules(partRootfs)) == 0 {
		masked = append(masked, dataWords("rootfs/masked-vm")...)
		err = errors.Join(err, l.tree("rootfs/layer-vm"))
	}
	if err != nil {
		return nil, err
	}
	l.file("usr/bin/plasmd", plasmd, 0o755)
	l.link(units+"multi-user.target.wants/phase-bless.service", "/"+units+"phase-bless.service")
	l.link(units+"multi-user.target.wants/phase-job.service", "/"+units+"phase-job.service")
	l.link(units+"multi-user.target.wants/phase-seed.service", "/"+units+"phase-seed.service")
	l.link(units+"multi-user.target.wants/phase-report.service", "/"+units+"phase-report.service")
	l.link(units+"multi-user.target.wants/phase-watch.service", "/"+units+"phase-watch.service")
	l.link(units+"multi-user.target.wants/plasmd.service", "/"+units+"plasmd.service")
	l.link(units+"sockets.target.wants/plasmd.socket", "/"+units+"plasmd.socket")
	l.link(units+"multi-user.target.wants/systemd-networkd.service", "/usr/lib/systemd/system/systemd-networkd.service")
	l.link(units+"default.target", "/usr/lib/systemd/system/multi-user.target")
	for _, unit := range masked {
		l.link(units+unit, "/dev/null")
	}
	for _, generator := range dataWords("rootfs/generators") {
		l.link("etc/systemd/system-generators/"+generator, "/dev/null")
	}
	return l, nil
}

// tree adds the files of an embedded folder.
func (l *layer) tree(folder string) error {
	tree, err := fs.Sub(data, folder)
	if err != nil {
		return err
	}
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(tree, name)
		l.file(name, text, 0o644)
		return err
	})
}

func (l *layer) file(name string, data []byte, perm int64) {
	l.files[name] = tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Size: int64(len(data)), Mode: perm, ModTime: l.date}
	l.content[name] = data
}

func (l *layer) link(name, target string) {
	l.files[name] = tar.Header{Typeflag: tar.TypeSymlink, Name: "./" + name, Linkname: target, Mode: 0o777, ModTime: l.date}
}

func (l *layer) digest() [32]byte {
	h := sha256.New()
	for _, name := range l.names() {
		f := l.files[name]
		fmt.Fprintf(h, "%q %o %q %x\n", name, f.Mode, f.Linkname, sha256.Sum256(l.content[name]))
	}
	fmt.Fprintf(h, "%q %d", l.removed, l.date.Unix())
	return [32]byte(h.Sum(nil))
}

func (l *layer) names() []string { return slices.Sorted(maps.Keys(l.files)) }

// removes reports whether a path of the base system is left out, because the layer replaces
// or removes it.
func (l *layer) removes(name string) bool {
	if _, ours := l.files[name]; ours {
		return true
	}
	for _, t := range l.removed {
		if name == t || strings.HasSuffix(t, "/") && strings.HasPrefix(name, t) {
			return true
		}
	}
	return false
}

// apply copies the base system from in to out without the dropped paths, then appends the
// layer's files in sorted order. Dates after the layer's date become the layer's date.
func (l *layer) apply(in io.Reader, out io.Writer) error {
	r, w := tar.NewReader(in), tar.NewWriter(out)
	dirs := map[string]bool{".": true}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("base system: %w; remove it from the cache", err)
		}
		name := path.Clean(h.Name)
		if l.removes(name) {
			continue
		}
		if h.Typeflag == tar.TypeDir {
			dirs[name] = true
		}
		if err := l.copyEntry(w, h, r); err != nil {
			return err
		}
	}
	if err := l.append(w, dirs); err != nil {
		return err
	}
	return w.Close()
}

func (l *layer) copyEntry(w *tar.Writer, h *tar.Header, r io.Reader) error {
	if h.ModTime.After(l.date) {
		h.ModTime = l.date
	}
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.Format = tar.FormatPAX
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}

func (l *layer) append(w *tar.Writer, dirs map[string]bool) error {
	for _, name := range l.names() {
		if err := l.makeDirs(w, path.Dir(name), dirs); err != nil {
			return err
		}
		h := l.files[name]
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := w.Write(l.content[name]); err != nil {
			return err
		}
	}
	return nil
}

func (l *layer) makeDirs(w *tar.Writer, dir string, dirs map[string]bool) error {
	if dirs[dir] {
		return nil
	}
	if err := l.makeDirs(w, path.Dir(dir), dirs); err != nil {
		return err
	}
	dirs[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + dir + "/", Mode: 0o755, ModTime: l.date})
}
