package imagebuild

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/file"
)

// A cacheLimit bounds the number of entries in a folder of the build cache.
type cacheLimit struct {
	n int
	// age is how long an entry stays after its last use, whatever the number: a build may read it.
	age time.Duration
}

// cacheLimits are those of all folders. The entries that were used last stay. The size of one is in brackets.
var cacheLimits = map[string]cacheLimit{
	"apt":       {4, 24 * time.Hour},   // lists of a foreign architecture [90 MB], index of the host's [40 MB]
	"base":      {8, 24 * time.Hour},   // tar of a base system [100 MB]
	"deb":       {256, 24 * time.Hour}, // packages; a root filesystem has about 100 [3 MB]
	"unpacked":  {48, 24 * time.Hour},  // packages [1 to 400 MB]
	"kernel":    {4, 24 * time.Hour},   // kernels that were built [6 MB]
	"rootfs":    {8, 24 * time.Hour},   // root filesystems [40 MB]
	"initramfs": {32, 0},               // compressed ones [4 MB], read as a whole at once
}

// cached returns the path of a name in the cache. If it is missing, fill makes the file or
// folder at a temporary path, and it is moved into the cache when it is complete.
func (b *Builder) cached(name string, fill func(path string) error) (string, error) {
	path := filepath.Join(b.cache, name)
	if _, err := os.Stat(path); err == nil {
		markUsed(path)
		return path, nil
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return "", err
	}
	defer clean()
	made := filepath.Join(tmp, "made")
	if err := fill(made); err != nil {
		return "", err
	}
	return path, b.moveToCache(made, path)
}

// markUsed sets the date by which prune judges an entry.
func markUsed(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // of a cache that another user fills, it is the date of the entry
}

// prune removes the entries of a folder beyond its limit, those first that were not used for the longest time. An
// entry goes as a whole: its name says what is in it. It ignores errors.
func (b *Builder) prune(dir string) {
	entries, _ := os.ReadDir(filepath.Join(b.cache, dir))
	limit, ok := cacheLimits[dir]
	if !ok || len(entries) <= limit.n {
		return
	}
	used := map[string]time.Time{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			used[e.Name()] = info.ModTime()
		}
	}
	slices.SortStableFunc(entries, func(a, z fs.DirEntry) int { return used[z.Name()].Compare(used[a.Name()]) })
	tmp, clean, err := b.tempDir()
	if err != nil {
		return
	}
	defer clean()
	for _, e := range entries[limit.n:] {
		if time.Since(used[e.Name()]) >= limit.age {
			_ = os.Rename(filepath.Join(b.cache, dir, e.Name()), filepath.Join(tmp, e.Name()))
		}
	}
}

// moveToCache moves a finished file or folder into the cache and syncs it before: the content of
// a cached name is not checked again. If another process has already stored the same
// content, that copy stays.
func (b *Builder) moveToCache(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return file.FullDisk(err)
	}
	if err := syncAll(from); err != nil {
		return file.FullDisk(err)
	}
	markUsed(from) // dpkg-deb gives a folder the date of the package
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	name, err := filepath.Rel(b.cache, to)
	if dir, _, found := strings.Cut(name, "/"); err == nil && found {
		b.prune(dir)
	}
	return nil
}

// syncAll syncs a file, or the filesystem of a folder, to the disk.
func syncAll(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.Syncfs(int(f.Fd()))
	}
	return f.Sync()
}
