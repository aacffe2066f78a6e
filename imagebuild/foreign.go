package imagebuild

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// This file makes the base system of an architecture whose programs the host cannot run. The
// files come from that architecture's packages, which are only unpacked. Everything that
// maintainer scripts wrote (users, alternatives, enabled units, PAM) is taken from the same base
// system of the host's architecture: there the scripts have run, and their results do not depend
// on the architecture. docs/RATIONALE.md says how that was judged.

// unpackForeign makes the tar of a foreign base system. p.native is the plan of the host's, whose
// tar is at nativeTar.
func (b *Builder) unpackForeign(ctx context.Context, p *base, nativeTar, out string) error {
	debs, err := b.planned(ctx, p)
	if err != nil {
		return err
	}
	n, err := readNative(nativeTar)
	if err != nil {
		return fmt.Errorf("base system of this machine's architecture: %w; remove %s", err, nativeTar)
	}
	f, err := os.Create(out)
	if err != nil {
		return file.FullDisk(err)
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := &foreignWriter{Writer: tar.NewWriter(buffered), date: p.date, native: n, written: map[string]bool{}, excludes: p.excludes}
	for _, d := range debs {
		if err := w.unpack(ctx, b, d); err != nil {
			return fmt.Errorf("package %s: %w", d.File, file.FullDisk(err))
		}
	}
	err = errors.Join(w.takeOver(nativeTar), w.database(p.arch))
	return file.FullDisk(errors.Join(err, w.Close(), buffered.Flush(), f.Close()))
}

// planned returns the packages of the plan, downloaded.
func (b *Builder) planned(ctx context.Context, p *base) ([]deb, error) {
	l, err := b.lists(ctx, p.arch)
	if err != nil {
		return nil, err
	}
	byName, err := l.show(ctx, "--all-versions", p.plan)
	if err != nil {
		return nil, err
	}
	var debs []deb
	for _, exact := range p.plan {
		d, ok := byName[exact]
		if !ok || len(d.SHA256) != 64 {
			return nil, notFoundf("package %s: not in apt's lists; run: apt-get update", exact)
		}
		debs = append(debs, d)
	}
	return debs, b.downloadAll(ctx, fmt.Sprintf("%d packages of %s", len(debs), p.arch), debs)
}

// A native is the base system of the host's architecture.
type native struct {
	headers map[string]*tar.Header // by merged path
	links   map[string]string      // of the top folder: "bin" to "usr/bin"
	owned   map[string]bool        // merged paths of the packages' files
}

// readNative reads the names in a base system's tar, and the lists of dpkg's database.
func readNative(name string) (*native, error) {
	n := &native{headers: map[string]*tar.Header{}, links: map[string]string{}, owned: map[string]bool{".": true}}
	var listed []string
	err := eachEntry(name, func(h *tar.Header, r io.Reader) error {
		n.headers[h.Name] = h
		if h.Typeflag == tar.TypeSymlink && path.Dir(h.Name) == "." {
			n.links[h.Name] = path.Clean(h.Linkname)
		}
		if path.Dir(h.Name) != dpkgInfo || path.Ext(h.Name) != ".list" {
			return nil
		}
		text, err := io.ReadAll(r)
		listed = append(listed, strings.Split(string(text), "\n")...)
		return err
	})
	for _, line := range listed {
		n.owned[n.merge(line)] = true
	}
	return n, err
}

// eachEntry reads a tar. Names are clean and relative.
func eachEntry(name string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(bufio.NewReaderSize(f, 1<<20)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = path.Clean(h.Name)
		if err := visit(h, r); err != nil {
			return err
		}
	}
}

// merge returns a path without the links of a merged /usr: usr/bin/sh for /bin/sh.
func (n *native) merge(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	first, rest, _ := strings.Cut(name, "/")
	if to, ok := n.links[first]; ok {
		return path.Join(to, rest)
	}
	return name
}

// A foreignWriter writes the tar of a foreign base system.
type foreignWriter struct {
	*tar.Writer
	date     time.Time // of dpkg's database
	native   *native
	written  map[string]bool
	excludes []string // options of dpkg
	status   []string // stanzas of dpkg's database
	info     []infoFile
}

// unpack writes the files of a package, without those that dpkg would exclude.
func (w *foreignWriter) unpack(ctx context.Context, b *Builder, d deb) error {
	control, err := readControl(ctx, d.path(b))
	if err != nil {
		return err
	}
	err = fromTool(ctx, command("dpkg-deb", "--fsys-tarfile", d.path(b)), func(r io.Reader) error {
		for in := tar.NewReader(r); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			name := path.Clean("/" + h.Name)
			control.list = append(control.list, name)
			if excluded(w.excludes, name) { // put makes the folders of included files
				continue
			}
			if err := w.entry(h, control.hashed(name, in)); err != nil {
				return err
			}
		}
	})
	w.add(control)
	return err
}

// entry writes a file of a package once. Owner and mode are those of the native file, which a
// maintainer script may have changed.
func (w *foreignWriter) entry(h *tar.Header, r io.Reader) error {
	name := w.native.merge(h.Name)
	link := h.Typeflag == tar.TypeSymlink && w.isLink(path.Clean(h.Name)) // of the merged /usr: takeOver writes it
	if name == "." || w.written[name] || link {
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		h.Linkname = "./" + w.native.merge(h.Linkname)
	}
	if same := w.native.headers[name]; same != nil && same.Typeflag == h.Typeflag {
		h.Mode, h.Uid, h.Gid = same.Mode, same.Uid, same.Gid
	}
	return w.put(name, h, r)
}

// isLink reports whether a name is a link of the merged /usr.
func (w *foreignWriter) isLink(name string) bool { _, ok := w.native.links[name]; return ok }

// put writes an entry and, before it, the folders above it that are not there yet.
func (w *foreignWriter) put(name string, h *tar.Header, r io.Reader) error {
	if dir := path.Dir(name); dir != "." && !w.written[dir] {
		up := &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: h.ModTime}
		if same := w.native.headers[dir]; same != nil {
			up.Mode, up.Uid, up.Gid = same.Mode, same.Uid, same.Gid
		}
		if err := w.put(dir, up, nil); err != nil {
			return err
		}
	}
	w.written[name] = true
	h.Name, h.Uname, h.Gname, h.Format = "./"+name, "", "", tar.FormatPAX
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}

// takeOver writes the files of the native base system that no package has: those that maintainer
// scripts and mmdebstrap made.
func (w *foreignWriter) takeOver(nativeTar string) error {
	return eachEntry(nativeTar, func(h *tar.Header, r io.Reader) error {
		name := h.Name
		switch {
		case name == "." || w.written[name]:
			return nil
		case w.isLink(name):
			if !w.written[w.native.links[name]] { // such as lib64, which arm64 does not have
				return nil
			}
		case w.native.owned[w.native.merge(name)], strings.Contains(name, "-linux-gnu"), slices.Contains(notTaken, name), path.Dir(name) == dpkgInfo:
			return nil
		}
		return w.put(name, h, r)
	})
}

// notTaken are files that depend on the architecture. Without ld.so.cache, the dynamic linker looks
// into its default folders.
var notTaken = []string{"etc/ld.so.cache", "var/cache/ldconfig/aux-cache", dpkgDir + "/status", dpkgDir + "/status-old", dpkgDir + "/arch"}

// excluded reports whether dpkg's options path-exclude and path-include exclude a file. The last
// one that matches wins, and * matches any text.
func excluded(options []string, name string) (out bool) {
	for _, option := range options {
		key, pattern, _ := strings.Cut(option, "=")
		prefix, suffix, star := strings.Cut(pattern, "*")
		if name == pattern || star && len(name) >= len(prefix)+len(suffix) && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			out = key == "path-exclude"
		}
	}
	return out
}

// fromTool runs a tool and gives its output to read, which must read all of it.
func fromTool(ctx context.Context, t *tool, read func(io.Reader) error) error {
	r, w := io.Pipe()
	t.stdout = w
	done := make(chan error, 1)
	go func() {
		err := t.run(ctx)
		w.CloseWithError(err)
		done <- err
	}()
	err := read(r)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	r.CloseWithError(err)
	if ran := <-done; err == nil {
		err = ran
	}
	return err
}
