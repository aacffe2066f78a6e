package publisher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	maxCandidates = 10_000 // files of a folder of artifacts that are looked at
	maxDepth      = 4      // folders below it
)

// candidates are the regular files below a folder of artifacts, in lexical order.
type candidates struct {
	dir   string
	files []candidate
}

type candidate struct {
	path string // below the folder, with slashes
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
			return nil // what is needed may be elsewhere
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

// find returns the file of an artifact: the one that has its length and sha256, whatever its
// name. Where only one has the length and a name of the role, its bytes are left to be
// compared while they are read. Where none fits, a file with a name of the role is returned
// for the comparison to say how it differs.
func (c candidates) find(ctx context.Context, a manifest.Artifact) (string, error) {
	var fits, named []candidate
	for _, f := range c.files {
		if f.size == a.Length {
			fits = append(fits, f)
		}
		if nameOf(f.path, a.Role) < unnamed {
			named = append(named, f)
		}
	}
	byName := func(x, y candidate) int { return nameOf(x.path, a.Role) - nameOf(y.path, a.Role) }
	slices.SortStableFunc(fits, byName)
	slices.SortStableFunc(named, byName)
	if len(fits) == 1 && nameOf(fits[0].path, a.Role) < unnamed {
		return c.at(fits[0]), nil
	}
	for _, f := range fits {
		if sum, err := hashFile(ctx, c.at(f)); err != nil {
			return "", fmt.Errorf("artifact %s: %w", a.Role, err)
		} else if sum == a.SHA256 {
			return c.at(f), nil
		}
	}
	switch {
	case len(named) > 0:
		return c.at(named[0]), nil
	case len(fits) > 0:
		return "", fmt.Errorf("artifact %s: %s has its length, and another sha256 than the manifest says; use the signed file or sign this one: %w", a.Role, c.at(fits[0]), cas.ErrCorrupt)
	}
	return "", fmt.Errorf("artifact %s: no file in %s has its length of %d bytes: %w; put the signed file there", a.Role, c.dir, a.Length, fs.ErrNotExist)
}

func (c candidates) at(f candidate) string { return filepath.Join(c.dir, filepath.FromSlash(f.path)) }

// unnamed is the rank of a file that no role is in the name of.
const unnamed = 3

// nameOf ranks a file for a role: 0 for ROLE itself ("dtb/x.dtb"), 1 for its last element, 2
// for that with a suffix ("kernel-6.1", "rootfs.squashfs").
func nameOf(file, role string) int {
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
	return unnamed
}

// hashFile returns the sha256 of a file in hex.
func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, interruptible{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r interruptible) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}
