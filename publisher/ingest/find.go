package ingest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

const (
	maxCandidates = 10_000 // files in a folder of artifacts
	maxDepth      = 4      // levels of subfolders
)

// candidates are the regular files below a folder of artifacts, in lexical order.
type candidates struct {
	dir   string
	files []candidate
}

type candidate struct {
	path string // relative to the folder, with slashes
	size int64
}

// listCandidates lists the files of a folder. Symbolic links to files count as files.
func listCandidates(ctx context.Context, dir string) (candidates, error) {
	c := candidates{dir: dir}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrPermission) && p != dir {
			return nil // the artifacts may be in other subfolders
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() && strings.Count(rel, string(filepath.Separator)) >= maxDepth {
			return fs.SkipDir
		}
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			c.files = append(c.files, candidate{filepath.ToSlash(rel), info.Size()})
		}
		if len(c.files) > maxCandidates {
			return fmt.Errorf("%s holds more than %d files (%w); name a folder with the signed files alone", dir, maxCandidates, fs.ErrInvalid)
		}
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("artifacts: %w", err)
	}
	return c, nil
}

// same returns the file with the length and sha256 of an artifact, "" when there is none.
func (c candidates) same(ctx context.Context, a manifest.Artifact) (string, error) {
	for _, f := range c.files {
		if f.size != a.Length {
			continue
		}
		if sum, err := store.HashFile(ctx, c.at(f)); err != nil {
			return "", fmt.Errorf("artifact %s: %w", a.Role, err)
		} else if sum == a.SHA256 {
			return c.at(f), nil
		}
	}
	return "", nil
}

// find returns the file with the length and sha256 of an artifact, whatever its name. A file
// that alone has the length and is named after the role is not hashed here: its bytes are
// compared while they are read. When no file fits, find returns a file that is named after
// the role, so that the comparison reports how it differs.
func (c candidates) find(ctx context.Context, a manifest.Artifact) (string, error) {
	rank := func(f candidate) int { return nameRank(f.path, a.Role) }
	files := slices.SortedStableFunc(slices.Values(c.files), func(x, y candidate) int { return rank(x) - rank(y) })
	sameLength := slices.DeleteFunc(slices.Clone(files), func(f candidate) bool { return f.size != a.Length })
	if len(sameLength) == 1 && rank(sameLength[0]) < otherName {
		return c.at(sameLength[0]), nil
	}
	if path, err := (candidates{c.dir, sameLength}).same(ctx, a); path != "" || err != nil {
		return path, err
	}
	switch {
	case len(files) > 0 && rank(files[0]) < otherName:
		return c.at(files[0]), nil
	case len(sameLength) > 0:
		return "", fmt.Errorf("artifact %s: %s has its length, and another sha256 than the manifest says; use the signed file or sign this one: %w", a.Role, c.at(sameLength[0]), cas.ErrCorrupt)
	}
	return "", fmt.Errorf("artifact %s: no file in %s has its length of %d bytes: %w; put the signed file there", a.Role, c.dir, a.Length, fs.ErrNotExist)
}

func (c candidates) at(f candidate) string { return filepath.Join(c.dir, filepath.FromSlash(f.path)) }

// otherName is the rank of a file that is not named after the role.
const otherName = 3

// nameRank ranks a file for a role: 0 for ROLE itself ("dtb/x.dtb"), 1 for its last element,
// 2 for the last element with a suffix ("kernel-6.1", "rootfs.squashfs").
func nameRank(file, role string) int {
	base := path.Base(role)
	rest, prefixed := strings.CutPrefix(file, base)
	switch {
	case file == role:
		return 0
	case file == base:
		return 1
	case prefixed && strings.ContainsAny(rest[:1], ".-_") && !strings.Contains(rest, "/"):
		return 2
	}
	return otherName
}
