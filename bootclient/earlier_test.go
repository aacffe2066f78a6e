package bootclient_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

// The output folder is a source, and its leaves are verified.
func TestTheOutputFolderIsASource(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(t *testing.T, r *repo, out string)
		least  int64 // bytes from the folder
		most   int64 // bytes from the mirror, without metadata and inner nodes
	}{
		"the same release": {func(*testing.T, *repo, string) {}, 5_200_000, 0},
		"the next release": {func(_ *testing.T, r *repo, _ string) {
			next := maps.Clone(r.signed)
			next["rootfs"] = append([]byte("in front"), next["rootfs"]...)
			r.release("2", next)
		}, 4_500_000, 600_000},
		"every file has a flipped byte": {func(t *testing.T, r *repo, out string) {
			for role := range r.signed {
				flipFile(t, filepath.Join(out, role))
			}
		}, 3_000_000, 2_000_000},
		"a file is cut short": {func(t *testing.T, _ *repo, out string) {
			ok(t, os.Truncate(filepath.Join(out, "rootfs"), 1<<20))
		}, 1_500_000, 4_000_000},
		"files of another kind": {func(t *testing.T, _ *repo, out string) {
			ok(t, os.Remove(filepath.Join(out, "kernel")))
			ok(t, syscall.Mkfifo(filepath.Join(out, "kernel"), 0o644))
			ok(t, os.Remove(filepath.Join(out, "initramfs")))
			ok(t, os.Symlink("rootfs", filepath.Join(out, "initramfs")))
		}, 4_000_000, 1_100_000},
		"an endless file": {func(t *testing.T, _ *repo, out string) {
			ok(t, os.Truncate(filepath.Join(out, "job/hello.wasm"), 1<<40))
		}, 5_000_000, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t, "us", manifest.Discovery{})
			m := newMachine(t, r, "private")
			m.cfg.Mirrors = []string{serve(t, r, nil).URL}
			m.boots(r)
			row.change(t, r, m.out)
			again := newMachine(t, r, "private")
			s := serve(t, r, nil)
			again.out, again.cfg.Mirrors = m.out, []string{s.URL}
			again.boots(r)
			folder := report.SourceStats{}
			for _, s := range again.report.Sources() {
				if s.Kind == "folder" {
					folder = s
				}
			}
			if got := again.source(s.URL).Bytes; folder.Bytes < row.least || folder.Name != m.out || got > row.most+20_000 {
				t.Errorf("the folder gave %d bytes (%+v), the mirror %d", folder.Bytes, folder, got)
			}
		})
	}
}

// A cache also gets the leaves of the output folder, and is complete then.
func TestLeavesOfTheOutputFolderGoIntoTheCache(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Mirrors = []string{"mirror"}, []string{s.URL}
	m.boots(r)
	m.cfg.Cache = t.TempDir()
	m.boots(r)
	m.out = filepath.Join(t.TempDir(), "out")
	s.blocks.Store(0)
	m.boots(r)
	if n := s.blocks.Load(); n != 0 {
		t.Errorf("%d blocks were fetched beside the cache", n)
	}
}

func flipFile(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	ok(t, err)
	data = bytes.Clone(data)
	data[len(data)/2] ^= 1
	ok(t, os.WriteFile(path, data, 0o644))
}
