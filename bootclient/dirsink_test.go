package bootclient_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestANewReleaseReplacesTheOldOneAndNothingElse(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	ok(t, os.MkdirAll(filepath.Join(m.out, "job"), 0o755))
	for _, mine := range []string{"notes.txt", "job/mine.wasm"} {
		ok(t, os.WriteFile(filepath.Join(m.out, mine), []byte("mine"), 0o644))
	}
	m.boots(r)
	r.release("2", map[string][]byte{"kernel": content(21, 1000), "initramfs": content(22, 2000), "dtb/board.dtb": content(23, 300)})
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	for name, want := range map[string]bool{
		"notes.txt": true, "job/mine.wasm": true, "dtb/board.dtb": true, "release.json": true, "report.json": true,
		"rootfs": false, "job/hello.wasm": false,
	} {
		if _, err := os.Stat(filepath.Join(m.out, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAbortedSinkKeepsTheOldFiles(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	m.cfg.Mirrors = []string{serve(t, newRepo(t, "foreign", manifest.Discovery{}), nil).URL}
	if err := m.fetch(t.Context()); cli.Code(err) != cli.ExitUntrusted {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(m.out)
	ok(t, err)
	if len(entries) != 7 { // kernel, initramfs, rootfs, job, cmdline, release.json, report.json
		t.Errorf("the folder holds %v", entries)
	}
}

func TestDirSinkRefusesAFileInPlaceOfItsFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	ok(t, os.WriteFile(file, nil, 0o644))
	if _, err := bootclient.NewDirSink(file); cli.Code(err) != cli.ExitUsage {
		t.Errorf("a file: %v", err)
	}
	if _, err := bootclient.NewDirSink(filepath.Join(dir, "no", "where")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
}

func TestDirSinkNamesAFolderInTheWayBeforeAnythingIsFetched(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.MkdirAll(filepath.Join(dir, "kernel"), 0o755))
	s, err := bootclient.NewDirSink(dir)
	ok(t, err)
	defer s.Abort()
	if _, err := s.Open("kernel", 10); cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), "kernel is a folder") {
		t.Errorf("got %v", err)
	}
}

// A killed fetch leaves its subfolder, which may be as big as a release.
func TestDirSinkRemovesTheFilesOfAKilledFetch(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, ".phase-boot.DEAD")
	ok(t, os.Mkdir(dead, 0o700))
	ok(t, os.WriteFile(filepath.Join(dead, "0"), []byte("half a kernel"), 0o644))
	long := time.Now().Add(-time.Hour)
	ok(t, os.Chtimes(dead, long, long))
	alive, err := bootclient.NewDirSink(dir)
	ok(t, err)
	defer alive.Abort()
	left, err := filepath.Glob(filepath.Join(dir, ".phase-boot.*"))
	ok(t, err)
	if len(left) != 1 || left[0] == dead {
		t.Fatalf("the folder holds %v", left)
	}
	ok(t, os.Chtimes(left[0], long, long))
	other, err := bootclient.NewDirSink(dir)
	ok(t, err)
	other.Abort()
	if _, err := os.Stat(left[0]); err != nil {
		t.Errorf("the one of a fetch that runs was swept: %v", err)
	}
}

func TestDirSinkTakesARoleOnce(t *testing.T) {
	s, err := bootclient.NewDirSink(t.TempDir())
	ok(t, err)
	defer s.Abort()
	_, err = s.Open("kernel", 10)
	ok(t, err)
	if _, err := s.Open("kernel", 10); err == nil {
		t.Error("opened twice")
	}
}

func TestDirSinkNeverLeavesItsFolder(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	ok(t, os.Mkdir(outside, 0o755))
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	ok(t, os.Mkdir(m.out, 0o755))
	ok(t, os.Symlink(outside, filepath.Join(m.out, "job")))
	if err := m.fetch(t.Context()); err == nil {
		t.Error("wrote through a symlink that leads out of the folder")
	}
	entries, err := os.ReadDir(outside)
	ok(t, err)
	if len(entries) != 0 {
		t.Errorf("outside are %v", entries)
	}
	if entries, err = os.ReadDir(m.out); err != nil || len(entries) != 1 {
		t.Errorf("beside the symlink are %v, %v", entries, err)
	}
}

func TestAFullDiskIsReportedBeforeTheFetch(t *testing.T) {
	dir := t.TempDir()
	var disk unix.Statfs_t
	ok(t, unix.Statfs(dir, &disk))
	d, err := bootclient.NewDirSink(filepath.Join(dir, "out"))
	ok(t, err)
	defer d.Abort()
	size := int64(disk.Bavail) * int64(disk.Bsize) / 8 * 7 // room for one artifact of this size, not for two
	_, err = d.Open("kernel", size)
	if err == nil {
		_, err = d.Open("rootfs", size)
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Error(err)
	}
}
