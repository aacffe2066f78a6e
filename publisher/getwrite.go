package publisher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	openfile "github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// write makes the files, all or none. It looks at what the folder holds before it writes one.
func (g *Gotten) write(ctx context.Context, o GetOptions, store cas.Source, data []byte) (err error) {
	wanted := g.Artifacts
	if o.Role != "" {
		a, ok := g.Artifact(o.Role)
		if !ok {
			return fmt.Errorf("release %q: no artifact %.80q (%w); it has %s", g.Version, o.Role, fs.ErrInvalid, roles(g.Release))
		}
		wanted = []manifest.Artifact{a}
	}
	there, err := g.thereIn(ctx, o.Out, data)
	if err != nil {
		return err
	}
	var made madeFiles
	defer func() {
		if err != nil {
			made.remove()
		}
	}()
	for _, a := range wanted {
		path := pathOf(o.Out, a.Role)
		g.Files = append(g.Files, GotFile{a.Role, path, a.Length, there[a.Role]})
		if there[a.Role] {
			continue
		}
		if err := made.folder(filepath.Dir(path)); err != nil {
			return fmt.Errorf("artifact %s: %w", a.Role, err)
		}
		if err := writeArtifact(ctx, path, store, a); err != nil {
			return err
		}
		made = append(made, path)
	}
	if o.Role != "" {
		return nil
	}
	path := filepath.Join(o.Out, ManifestFile)
	g.Files = append(g.Files, GotFile{"", path, int64(len(data)), there[""]})
	if there[""] {
		return nil
	}
	if err := atomicfile.Write(path, 0o644, data); err != nil {
		return fmt.Errorf("release manifest %s: %w", path, err)
	}
	return nil
}

// madeFiles are the files and folders that one Get has made, in order.
type madeFiles []string

// folder makes a folder and those above it.
func (m *madeFiles) folder(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		if err := m.folder(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o755)
	}
	if err == nil {
		*m = append(*m, path)
		return nil
	}
	if info, serr := os.Stat(path); serr == nil && info.IsDir() {
		return nil
	}
	return err
}

// remove takes everything away again, as far as that goes: a folder into which somebody else
// has written stays.
func (m madeFiles) remove() {
	for _, path := range slices.Backward(m) {
		_ = os.Remove(path)
	}
}

// pathOf is the path of an artifact in a folder.
func pathOf(dir, role string) string { return filepath.Join(dir, filepath.FromSlash(role)) }

// thereIn looks at the files of a release in a folder: those that are this release's are in the
// answer by role, the manifest as "". A file of another release is refused, whether this release
// has a file of that name or not.
func (g *Gotten) thereIn(ctx context.Context, dir string, data []byte) (there map[string]bool, err error) {
	there = map[string]bool{}
	for _, a := range g.Artifacts {
		if there[a.Role], err = isThere(ctx, pathOf(dir, a.Role), a); err != nil {
			return nil, err
		}
	}
	held, err := rolesIn(dir)
	if err != nil {
		return nil, err
	}
	for _, role := range held {
		if _, ok := g.Artifact(role); !ok {
			return nil, fmt.Errorf("artifact %s: %s: %w, and release %q has no such file; name an empty folder with --out",
				role, pathOf(dir, role), fs.ErrExist, g.Version)
		}
	}
	there[""], err = manifestIsThere(filepath.Join(dir, ManifestFile), data)
	return there, err
}

// rolesIn lists the roles of artifacts for which a folder has a file.
func rolesIn(dir string) (held []string, err error) {
	for _, place := range []struct {
		folder string
		is     func(name string) bool
	}{
		{"", func(name string) bool {
			return name == manifest.RoleKernel || name == manifest.RoleInitramfs || name == manifest.RoleRootfs
		}},
		{"dtb", func(name string) bool { return !strings.HasPrefix(name, ".") }},
		{"job", func(name string) bool { return !strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".wasm") }},
	} {
		entries, err := os.ReadDir(filepath.Join(dir, place.folder))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("folder %s: %w", dir, err)
		}
		for _, e := range entries {
			if place.is(e.Name()) {
				held = append(held, strings.TrimPrefix(place.folder+"/"+e.Name(), "/"))
			}
		}
	}
	return held, nil
}

// manifestIsThere reports whether a file holds this manifest already. Another file is refused.
func manifestIsThere(path string, data []byte) (bool, error) {
	is, err := openfile.Read(path, openfile.NoFollow, int64(len(data)))
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR): // the artifacts say what is in the way
		return false, nil
	case err == nil && bytes.Equal(is, data):
		return true, nil
	case err == nil || errors.Is(err, openfile.ErrKind) || errors.Is(err, openfile.ErrTooLarge):
		return false, fmt.Errorf("release manifest %s: %w, and is another file; name an empty folder with --out", path, fs.ErrExist)
	}
	return false, fmt.Errorf("release manifest: %w", err)
}

func roles(r manifest.Release) string {
	var names []string
	for _, a := range r.Artifacts {
		names = append(names, a.Role)
	}
	return strings.Join(names, ", ")
}

// isThere reports whether a file holds an artifact already. Another file is refused.
func isThere(ctx context.Context, path string, a manifest.Artifact) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return false, fmt.Errorf("artifact %s: %s: a file is in the way of a folder (%w); name a folder with --out", a.Role, path, fs.ErrInvalid)
	}
	if err != nil {
		return false, fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	if info.Mode().IsRegular() && info.Size() == a.Length {
		if sum, err := hashFile(ctx, path); err != nil || sum == a.SHA256 {
			return err == nil, err
		}
	}
	return false, fmt.Errorf("artifact %s: %s: %w, and is another file; name an empty folder with --out", a.Role, path, fs.ErrExist)
}

// writeArtifact copies an artifact out of the store.
func writeArtifact(ctx context.Context, path string, store cas.Source, a manifest.Artifact) error {
	return atomicfile.WriteFrom(path, 0o644, func(w io.Writer) error {
		sum := sha256.New()
		if err := cas.Copy(ctx, io.MultiWriter(w, sum), store, a.CID, a.Length); err != nil {
			return fmt.Errorf("artifact %s: %w", a.Role, err)
		}
		if digest := hex.EncodeToString(sum.Sum(nil)); digest != a.SHA256 {
			return differs(a, "the store's", "sha256", digest, a.SHA256)
		}
		return nil
	})
}
