package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// write makes the files, all or none. It checks the content of the folder first.
func (g *Got) write(ctx context.Context, o GetOptions, packs cas.Source, data []byte) (err error) {
	wanted := g.Artifacts
	if o.Role != "" {
		a, ok := g.Artifact(o.Role)
		if !ok {
			return fmt.Errorf("release %q: no artifact %.80q (%w); it has %s", g.Version, o.Role, fs.ErrInvalid, roleList(g.Release))
		}
		wanted = []manifest.Artifact{a}
	}
	present, err := g.present(ctx, o.Out, data)
	if err != nil {
		return err
	}
	var made []string // files and folders, in order
	defer func() {
		if err == nil {
			return
		}
		for _, path := range slices.Backward(made) {
			_ = os.Remove(path) // a folder into which another process wrote stays
		}
	}()
	for _, a := range wanted {
		path := pathOf(o.Out, a.Role)
		g.Files = append(g.Files, GotFile{a.Role, path, a.Length, present[a.Role]})
		if present[a.Role] {
			continue
		}
		folders, err := file.MkdirAll(filepath.Dir(path), 0o755)
		if made = append(made, folders...); err != nil {
			return fmt.Errorf("artifact %s: %w", a.Role, err)
		}
		write := func(w io.Writer) error { return CopyArtifact(ctx, w, packs, a) }
		if err := atomicfile.WriteFrom(path, 0o644, write); err != nil {
			return err
		}
		made = append(made, path)
	}
	if o.Role != "" {
		return nil
	}
	path := filepath.Join(o.Out, ManifestFile)
	g.Files = append(g.Files, GotFile{"", path, int64(len(data)), present[""]})
	if present[""] {
		return nil
	}
	if err := atomicfile.Write(path, 0o644, data); err != nil {
		return fmt.Errorf("release manifest %s: %w", path, err)
	}
	return nil
}

// pathOf is the path of an artifact in a folder.
func pathOf(dir, role string) string { return filepath.Join(dir, filepath.FromSlash(role)) }

// present returns the roles of the release's files that a folder has, the manifest as "". It
// refuses a file of another release, whether this release has a file of that name or not.
func (g *Got) present(ctx context.Context, dir string, data []byte) (present map[string]bool, err error) {
	present = map[string]bool{}
	for _, a := range g.Artifacts {
		if present[a.Role], err = isArtifact(ctx, pathOf(dir, a.Role), a); err != nil {
			return nil, err
		}
	}
	roles, err := rolesIn(dir)
	if err != nil {
		return nil, err
	}
	for _, role := range roles {
		if _, ok := g.Artifact(role); !ok {
			return nil, fmt.Errorf("artifact %s: %s: %w, and release %q has no such file; name an empty folder with --out",
				role, pathOf(dir, role), fs.ErrExist, g.Version)
		}
	}
	present[""], err = isManifest(filepath.Join(dir, ManifestFile), data)
	return present, err
}

// rolesIn lists the roles of artifacts for which a folder has a file.
func rolesIn(dir string) (roles []string, err error) {
	for _, sub := range []string{"", "dtb", "job", "boot"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("folder %s: %w", dir, err)
		}
		for _, e := range entries {
			role, hidden := path.Join(sub, e.Name()), strings.HasPrefix(e.Name(), ".")
			switch {
			case role == manifest.RoleKernel, role == manifest.RoleInitramfs, role == manifest.RoleRootfs, manifest.IsBootSet(role),
				sub == "dtb" && !hidden, sub == "job" && !hidden && strings.HasSuffix(role, ".wasm"):
				roles = append(roles, role)
			}
		}
	}
	return roles, nil
}

// isManifest reports whether a file is this manifest. It refuses another file.
func isManifest(path string, data []byte) (bool, error) {
	got, err := file.Read(path, file.NoFollow, int64(len(data)))
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR): // isArtifact reports a file in place of a folder
		return false, nil
	case err == nil && bytes.Equal(got, data):
		return true, nil
	case err == nil || errors.Is(err, file.ErrKind) || errors.Is(err, file.ErrTooLarge):
		return false, fmt.Errorf("release manifest %s: %w, and is another file; name an empty folder with --out", path, fs.ErrExist)
	}
	return false, fmt.Errorf("release manifest: %w", err)
}

func roleList(r manifest.Release) string {
	var names []string
	for _, a := range r.Artifacts {
		names = append(names, a.Role)
	}
	return strings.Join(names, ", ")
}

// isArtifact reports whether a file is an artifact already. It refuses another file.
func isArtifact(ctx context.Context, path string, a manifest.Artifact) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return false, fmt.Errorf("artifact %s: %s: a file is in place of a folder (%w); name a folder with --out", a.Role, path, fs.ErrInvalid)
	}
	if err != nil {
		return false, fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	if info.Mode().IsRegular() && info.Size() == a.Length {
		if sum, err := HashFile(ctx, path); err != nil || sum == a.SHA256 {
			return err == nil, err
		}
	}
	return false, fmt.Errorf("artifact %s: %s: %w, and is another file; name an empty folder with --out", a.Role, path, fs.ErrExist)
}
