package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// An export is killed many times while the pointer moves between two releases. After each
// kill every file of the mirror is complete, and the record points to a complete release.
func TestAnExportMayBeKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	mirror := filepath.Join(dir, "mirror")
	if out, err := export(dir).CombinedOutput(); err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	if out, err := publish(dir, "v2.json", "artifacts2"); err != nil {
		t.Fatalf("add: %v\n%s", err, out)
	}
	killed := 0
	life := 20 * time.Millisecond // of an export; it grows, so that the test ends on a slow machine too
	steps := time.Duration(12)
	if testing.Short() {
		steps = 4 // a few kills
	}
	for done := false; !done; life += life / steps {
		cmd := export(dir)
		check(t, cmd.Start())
		kill := time.AfterFunc(life+rand.N(life/steps), func() { cmd.Process.Kill() })
		done = cmd.Wait() == nil
		kill.Stop()
		if !done {
			killed++
		}
		checkMirror(t, mirror, done || killed%5 == 0)
	}
	if killed < 3 {
		t.Errorf("killed only %d times", killed)
	}
	t.Logf("killed %d times", killed)
	if out, err := export(dir, "--prune").CombinedOutput(); err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	checkMirror(t, mirror, true)
	ledger, err := os.ReadFile(filepath.Join(mirror, ".phase-export/ledger"))
	check(t, err)
	files := 0
	check(t, filepath.WalkDir(mirror, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
		}
		return err
	}))
	if lines := bytes.Count(ledger, []byte("\n")) - 1; lines != files-2 { // ledger and lock
		t.Errorf("%d files, and %d in the ledger", files, lines)
	}
	if left, err := os.ReadDir(filepath.Join(mirror, ".phase-export/new")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left in the staging folder, %v", len(left), err)
	}
}

func export(dir string, more ...string) *exec.Cmd {
	cmd := exec.Command("phase-publish", append([]string{"export", "--store", "store", "--repo", "repo", "--out", "mirror", "--ipns-key", "ipns.key"}, more...)...)
	cmd.Dir = dir
	return cmd
}

// A folderSource reads the blocks of a mirror, as a web server does.
type folderSource string

func (f folderSource) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(f), "ipfs", c.String()))
}

// checkMirror checks that every block and target hashes to its name, that the record points to a
// complete metadata folder, and that the timestamp leads to the targets.
func checkMirror(t *testing.T, dir string, every bool) {
	t.Helper()
	records, err := os.ReadDir(filepath.Join(dir, "ipns"))
	check(t, err)
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	record, err := os.ReadFile(filepath.Join(dir, "ipns", records[0].Name()))
	check(t, err)
	folder, _, err := p2p.CheckRecord(records[0].Name(), record)
	check(t, err)
	files, err := cas.ReadDir(t.Context(), folderSource(dir), folder)
	check(t, err)
	for _, f := range files {
		_, err := cas.ReadFile(t.Context(), folderSource(dir), f.CID, cas.MaxBlock)
		check(t, err)
	}
	blocks, err := os.ReadDir(filepath.Join(dir, "ipfs"))
	check(t, err)
	for i, b := range blocks {
		if every || i%7 == 0 {
			c, err := cas.ParseCID(b.Name())
			check(t, err)
			_, err = cas.Get(t.Context(), folderSource(dir), c)
			check(t, err)
		}
	}
	checkTargets(t, filepath.Join(dir, "tuf"), every)
}

func checkTargets(t *testing.T, dir string, every bool) {
	t.Helper()
	check(t, filepath.WalkDir(filepath.Join(dir, "targets"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !every {
			return err
		}
		data, err := os.ReadFile(path)
		if sum, _, _ := strings.Cut(d.Name(), "."); fmt.Sprintf("%x", sha256.Sum256(data)) != sum {
			t.Errorf("%s: %d wrong bytes", path, len(data))
		}
		return err
	}))
	open := func(role string, version int64) *manifest.Document {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "metadata", manifest.FileName(role, version)))
		check(t, err)
		d, err := manifest.Open(data)
		check(t, err)
		return d
	}
	for _, f := range open("snapshot", open("timestamp", 0).MetaFiles()[0].Version).MetaFiles() {
		for _, target := range open(strings.TrimSuffix(f.File, ".json"), f.Version).Targets() {
			if _, err := os.Stat(filepath.Join(dir, "targets", target.HashedPath())); err != nil {
				t.Error(err)
			}
		}
	}
}
