package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
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
	files, err := filepath.Glob(filepath.Join(mirror, "*/*"))
	check(t, err)
	if lines := bytes.Count(ledger, []byte("\n")) - 1; lines != len(files)-3 { // ledger, lock and new
		t.Errorf("%d files, and %d in the ledger", len(files), lines)
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

// checkMirror checks that every block hashes to its name, and that the record points to a
// complete metadata folder.
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
}
