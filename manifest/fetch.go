package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/phaseboot/phaseboot/internal/file"
)

// A Fetcher returns a file of a repository's metadata directory by its name, for example
// "2.root.json" or "timestamp.json". A missing file wraps fs.ErrNotExist. It returns at most max
// bytes. It is not trusted: the bytes may be wrong.
type Fetcher interface {
	Metadata(ctx context.Context, name string, max int64) ([]byte, error)
}

// A DirFetcher reads a repository from a folder on disk.
type DirFetcher string

// Metadata reads one file of the folder.
func (d DirFetcher) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !fileGrammar.MatchString(name) {
		return nil, fmt.Errorf("%.80q: not the name of a metadata file: %w", name, fs.ErrNotExist)
	}
	return readBounded(filepath.Join(string(d), name), max, 0)
}

// Newest returns the highest version among the folder's files of a role, 0 when there is none.
// The role is "root", "targets", "snapshot" or a delegated role.
func (d DirFetcher) Newest(role string) (int64, error) {
	versions, err := d.Versions(role)
	if len(versions) == 0 {
		return 0, err
	}
	return versions[len(versions)-1], nil
}

// Versions returns the versions of the folder's files of a role, in ascending order.
func (d DirFetcher) Versions(role string) ([]int64, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var list []int64
	for _, e := range entries {
		if r, version, ok := SplitFile(e.Name()); ok && r == role && version > 0 {
			list = append(list, version)
		}
	}
	slices.Sort(list)
	return list, nil
}

// readBounded reads a regular file of at most max bytes. It does not open a pipe or a device.
// flags is 0 or file.NoFollow.
func readBounded(path string, max int64, flags int) ([]byte, error) {
	data, err := file.Read(path, flags, max)
	if errors.Is(err, file.ErrKind) || errors.Is(err, file.ErrTooLarge) {
		return nil, malformed("%v", err)
	}
	return data, err
}

// fetch reads a file of one kind from a source and refuses more bytes than the kind allows.
func fetch(ctx context.Context, f Fetcher, name string, kind Kind) ([]byte, error) {
	data, err := f.Metadata(ctx, name, kind.Max())
	if err != nil {
		return nil, inFile(name, err)
	}
	if int64(len(data)) > kind.Max() {
		return nil, malformed("%s: more than %d bytes", name, kind.Max())
	}
	return data, nil
}

// absent reports whether err says that the source does not have the file.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
