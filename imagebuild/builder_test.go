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
	for i := range maxCompressed + 2 {
		compress(fmt.Sprint(i))
	}
	if n := len(names()); n != maxCompressed {
		t.Errorf("%d files in the cache, want %d", n, maxCompressed)
	}
}
