package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestMountPointsSurviveTheEmptyingOfTheInitramfs(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	dir := t.TempDir()
	other := filepath.Join(dir, "mounted")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	for _, name := range []string{"a", "mounted/keep"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir, uint64(st.Dev)); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "a")) || !exists(filepath.Join(other, "keep")) {
		t.Error("the wrong files were deleted")
	}
}

func TestInitIsFoundThroughLinksOfTheNewRoot(t *testing.T) {
	dir := t.TempDir()
	if err := checkInit(dir, nextInit); err == nil || !strings.Contains(err.Error(), "build the rootfs with an init") {
		t.Errorf("an empty root: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "usr/sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("usr/sbin", filepath.Join(dir, "sbin")),
		os.Symlink("/lib/systemd/systemd", filepath.Join(dir, "usr/sbin/init"))); err != nil {
		t.Fatal(err)
	}
	if err := checkInit(dir, nextInit); err != nil {
		t.Errorf("Debian's layout: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "sbin")), os.Symlink("/usr/sbin", filepath.Join(dir, "sbin"))); err != nil {
		t.Fatal(err)
	}
	if err := checkInit(dir, nextInit); err != nil {
		t.Errorf("an absolute link: %v", err)
	}
}

// The init is checked before the root is switched.
func TestAnInitThatCannotStartIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		put  func(path string) error
		want string
	}{
		"a program":        {func(p string) error { return os.WriteFile(p, []byte("\x7fELF\x02\x01"), 0o755) }, ""},
		"a script":         {func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755) }, ""},
		"an absolute link": {func(p string) error { return os.Symlink("/lib/systemd/systemd", p) }, ""},
		"nothing":          {func(string) error { return nil }, "does not exist"},
		"no right to run":  {func(p string) error { return os.WriteFile(p, []byte("\x7fELF\x02\x01"), 0o644) }, "not an executable program"},
		"a text":           {func(p string) error { return os.WriteFile(p, []byte("systemd\n"), 0o755) }, "not an executable program"},
		"an empty file":    {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "not an executable program"},
		"a folder":         {func(p string) error { return os.Mkdir(p, 0o755) }, "not an executable program"},
		"a pipe":           {func(p string) error { return unix.Mkfifo(p, 0o755) }, "not an executable program"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "sbin"), 0o755), tt.put(filepath.Join(dir, "sbin/init"))); err != nil {
				t.Fatal(err)
			}
			err := checkInit(dir, nextInit)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}
