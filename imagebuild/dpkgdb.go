package imagebuild

import (
	"archive/tar"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// Paths of dpkg's database, which unpackForeign writes as dpkg does (deb(5), dpkg(1)).
const (
	dpkgDir  = "var/lib/dpkg"
	dpkgInfo = dpkgDir + "/info"
)

// An infoFile is a file of a package in dpkg's folder info.
type infoFile struct {
	name    string
	mode    int64
	content []byte
}

// control is the control archive of a package.
type control struct {
	stanza    string
	files     []infoFile           // the others
	list      []string             // paths of the package's files
	conffiles map[string]hash.Hash // by path
}

func readControl(ctx context.Context, deb string) (*control, error) {
	c := &control{conffiles: map[string]hash.Hash{}}
	return c, fromTool(ctx, command("dpkg-deb", "--ctrl-tarfile", deb), func(r io.Reader) error {
		for in := tar.NewReader(r); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			c.add(path.Base(h.Name), h.Mode, text)
		}
	})
}

func (c *control) add(name string, mode int64, text []byte) {
	switch name {
	case "control":
		c.stanza = strings.TrimSpace(string(text)) + "\n"
		return
	case "conffiles":
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 1 { // others are to be removed
				c.conffiles[fields[0]] = md5.New()
			}
		}
	}
	c.files = append(c.files, infoFile{name, mode, text})
}

// hashed returns r, whose content is hashed if the file is a conffile.
func (c *control) hashed(name string, r io.Reader) io.Reader {
	if h := c.conffiles[name]; h != nil {
		return io.TeeReader(r, h)
	}
	return r
}

func (c *control) field(name string) string {
	for line := range strings.Lines(c.stanza) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// add adds an unpacked package to the database as an installed one.
func (w *foreignWriter) add(c *control) {
	name := c.field("Package")
	stanza := strings.Replace(c.stanza, "\n", "\nStatus: install ok installed\n", 1)
	if len(c.conffiles) > 0 {
		stanza += "Conffiles:\n"
		for _, f := range slices.Sorted(maps.Keys(c.conffiles)) {
			stanza += fmt.Sprintf(" %s %x\n", f, c.conffiles[f].Sum(nil))
		}
	}
	w.status = append(w.status, stanza)
	if c.field("Multi-Arch") == "same" {
		name += ":" + c.field("Architecture")
	}
	for i, path := range c.list {
		if path == "/" {
			c.list[i] = "/."
		}
	}
	w.info = append(w.info, infoFile{name + ".list", 0o644, []byte(strings.Join(c.list, "\n") + "\n")})
	for _, f := range c.files {
		w.info = append(w.info, infoFile{name + "." + f.name, f.mode, f.content})
	}
}

// database writes dpkg's database.
func (w *foreignWriter) database(arch string) error {
	files := append(w.info,
		infoFile{"format", 0o644, []byte("1\n")},
		infoFile{"../status", 0o644, []byte(strings.Join(w.status, "\n"))},
		infoFile{"../arch", 0o644, []byte(arch + "\n")})
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: f.mode & 0o777, Size: int64(len(f.content)), ModTime: w.date}
		if err := w.put(path.Join(dpkgInfo, f.name), h, strings.NewReader(string(f.content))); err != nil {
			return err
		}
	}
	return nil
}
