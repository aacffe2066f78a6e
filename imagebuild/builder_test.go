package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTemporaryFoldersOfKilledBuildsAreRemovedAndOthersStay(t *testing.T) {
	cache := t.TempDir()
	b, err := New(Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	locked, clean, err := b.tempDir()
	if err != nil {
		t.Fatal(err)
	}
	defer clean()
	killed, fresh := filepath.Join(cache, "tmp-1"), filepath.Join(cache, "tmp-2")
	if err := errors.Join(os.MkdirAll(filepath.Join(killed, "x"), 0o755), os.Mkdir(fresh, 0o755)); err != nil {
		t.Fatal(err)
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Chtimes(killed, hourAgo, hourAgo), os.Chtimes(locked, hourAgo, hourAgo)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Cache: cache}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder of the killed build: %v", err)
	}
	for _, dir := range []string{locked, fresh} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

// An input that cannot be read is not reported as an output that cannot be written.
func TestFormatAnErrorOfAnInputNamesTheInput(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "boot", "vmlinuz-9.9")
	fakeKernel(t, dir, "9.9")
	b, err := New(Options{Cache: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	in := Initramfs{Platform: testPlatform(t, "vm"), Role: RoleTarget, KernelFrom: dir, PhaseBoot: filepath.Join(text, "phase-boot")}
	out := filepath.Join(dir, "initramfs")
	_, err = b.WriteInitramfs(t.Context(), in, out)
	if err == nil || !strings.Contains(err.Error(), in.PhaseBoot) || strings.Contains(err.Error(), out) {
		t.Errorf("got %v, want an error of %s", err, in.PhaseBoot)
	}
}

func TestFormatACacheEntryIsMadeOnceAndOnlyWhole(t *testing.T) {
	b, err := New(Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	full, made := errors.New("full"), 0
	fill := func(path string) error {
		if made++; made == 1 {
			return errors.Join(os.WriteFile(path, []byte("half"), 0o644), full)
		}
		return os.WriteFile(path, []byte("whole"), 0o644)
	}
	if _, err := b.cached("base/x.tar", fill); !errors.Is(err, full) {
		t.Fatalf("got %v, want %v", err, full)
	}
	for range 2 {
		path, err := b.cached("base/x.tar", fill)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "whole" || made != 2 {
			t.Errorf("read %q, %v; made %d times", data, err, made)
		}
	}
	if left, err := os.ReadDir(b.cache); err != nil || len(left) != 1 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

// emptyBuilder returns a builder with an empty cache.
func emptyBuilder(t testing.TB) *Builder {
	t.Helper()
	b, err := New(Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A tree is compressed once, another tree again, and the cache has a limit.
func TestTheCacheKeepsCompressedTrees(t *testing.T) {
	b := emptyBuilder(t)
	names := func() (list []string) {
		entries, err := os.ReadDir(filepath.Join(b.cache, "initramfs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	compress := func(text string) []byte {
		a := newArchive()
		a.text("init", text)
		out, err := b.compressed(t.Context(), Platform{}, a, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := compress("0")
	if !bytes.Equal(compress("0"), first) || len(names()) != 1 {
		t.Errorf("the same tree again: other bytes, or %v", names())
	}
	if bytes.Equal(compress("1"), first) || len(names()) != 2 {
		t.Errorf("another tree: the same bytes, or %v", names())
	}
	limit := cacheLimits["initramfs"].n
	for i := range limit + 2 {
		compress(fmt.Sprint(i))
	}
	if n := len(names()); n != limit {
		t.Errorf("%d files in the cache, want %d", n, limit)
	}
}

// Every folder of the cache has a limit. The entries that were used last stay, and those of the last day, which another
// build may read.
func TestTheCacheRemovesWhatWasNotUsedForTheLongestTime(t *testing.T) {
	for dir, limit := range cacheLimits {
		b := emptyBuilder(t)
		entry := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%03d", i)) }
		for i := range limit.n { // the first is the oldest
			path, date := filepath.Join(b.cache, entry(i)), time.Now().Add(-limit.age-time.Hour*time.Duration(limit.n-i))
			if err := errors.Join(writeBelow(path, "sub/file", []byte("x")), os.Chtimes(path, date, date)); err != nil {
				t.Fatal(err)
			}
		}
		fill := func(path string) error { return writeBelow(path, "sub/file", []byte("x")) }
		for _, i := range []int{0, limit.n, limit.n + 1} { // the first is used again
			if _, err := b.cached(entry(i), fill); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: true, limit.n: true, limit.n + 1: true} {
			if _, err := os.Stat(filepath.Join(b.cache, entry(i))); (err == nil) != want {
				t.Errorf("%s: entry %d of %d: %v", dir, i, limit.n+2, err)
			}
		}
		if left, err := os.ReadDir(b.cache); err != nil || len(left) != 1 {
			t.Errorf("%s: left in the cache: %v, %v", dir, left, err)
		}
		if limit.age == 0 {
			continue
		}
		for i := range limit.n {
			markUsed(filepath.Join(b.cache, entry(i)))
		}
		if _, err := b.cached(entry(limit.n+2), fill); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(filepath.Join(b.cache, dir)); err != nil || len(entries) != limit.n+1 {
			t.Errorf("%s: %d entries of today, %v", dir, len(entries), err)
		}
	}
}
