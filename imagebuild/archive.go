package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/phaseboot/phaseboot/internal/file"
)

// An archive is the file tree of an initramfs. The same tree gives the same bytes of cpio
// format "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	records map[string]cpio.Record
}

func newArchive() *archive { return &archive{map[string]cpio.Record{}} }

// put adds a record and the folders above it.
func (a *archive) put(r cpio.Record) {
	for dir := path.Dir(r.Name); dir != "."; dir = path.Dir(dir) {
		if _, ok := a.records[dir]; !ok {
			a.records[dir] = cpio.Directory(dir, 0o755)
		}
	}
	a.records[r.Name] = r
}

func (a *archive) dir(name string, perm uint64) { a.put(cpio.Directory(name, perm)) }
func (a *archive) link(name, target string)     { a.put(cpio.Symlink(name, target)) }
func (a *archive) text(name, text string)       { a.file(name, []byte(text), 0o644) }

func (a *archive) file(name string, data []byte, perm uint64) {
	a.put(cpio.StaticRecord(data, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm}))
}

func (a *archive) device(name string, perm, major, minor uint64) {
	a.put(cpio.CharDev(name, perm, major, minor))
}

// compressed returns the tree as one zstd frame, with date t in every record. The zstd program makes
// it a tenth smaller than the Go library can (docs/RATIONALE.md). The window is 8 MiB: unpacking
// needs that much memory beside the tree. The kernel accepts windows up to 128 MiB.
//
// The frame is kept in the cache under the hash of the tree and of the program's version: it takes 10 s of
// processor time, and images that differ in their command line have the same tree.
func (b *Builder) compressed(ctx context.Context, p Platform, a *archive, t time.Time) ([]byte, error) {
	var tree bytes.Buffer
	if err := a.writeTo(&tree, t); err != nil {
		return nil, err
	}
	args := []string{fmt.Sprintf("-%d", p.zstdLevel()), "--single-thread", "--quiet", "--check", fmt.Sprintf("--stream-size=%d", tree.Len()), fmt.Sprintf("--zstd=wlog=%d", zstdWindowLog)}
	version, err := command("zstd", "--version").output(ctx)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %x", version, args, sha256.Sum256(tree.Bytes())))
	path, err := b.cached(filepath.Join("initramfs", hex.EncodeToString(sum[:])), func(path string) error {
		out, err := command("zstd", args...).reads(&tree).output(ctx)
		if err != nil {
			return err
		}
		return file.FullDisk(os.WriteFile(path, out, 0o644))
	})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// zstdLevel returns the level of zstd. The initramfs of flavour generic has so many drivers that level 18
// takes a minute.
func (p Platform) zstdLevel() int {
	if p.Flavour == "generic" {
		return 12
	}
	return 18
}

// writeTo writes the tree without compression, sorted by name.
func (a *archive) writeTo(w io.Writer, t time.Time) error {
	out := cpio.Newc.Writer(w)
	for i, name := range slices.Sorted(maps.Keys(a.records)) { // a folder sorts before the files in it
		r := cpio.MakeReproducible(a.records[name])
		r.Ino, r.MTime = uint64(i+1), uint64(t.Unix())
		if err := out.WriteRecord(r); err != nil {
			return err
		}
	}
	return out.WriteRecord(cpio.TrailerRecord)
}
