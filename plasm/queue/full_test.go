package queue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
)

// On a full disk a submission is refused in one line and leaves nothing, and a job that runs still gets its
// outcome.
func TestAFullDiskRefusesJobsAndKeepsOutcomes(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	disk := t.TempDir()
	check(t, unix.Mount("small-disk", disk, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	dir := filepath.Join(disk, "state")
	q := open(t, dir, Options{})
	for n := range 2 {
		_, err := submit(q, n, "", "module", "")
		check(t, err)
	}
	running := claim(t, q)
	out, err := q.Begin(running.ID, Module{}, time.Now())
	check(t, err)
	fillUp(t, filepath.Join(disk, "ballast"))

	before := files(t, dir)
	refused := 0
	for n := 10; n < 40; n++ { // some find a free page
		_, err := submit(q, n, "", "another module", strings.Repeat("input", 20_000))
		if err == nil {
			continue
		}
		refused++
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("refused with %v", err)
		}
		if _, ok := q.Get(id(n)); ok {
			t.Error("a refused job is known")
		}
	}
	if refused == 0 || len(files(t, dir)) != len(before) {
		t.Errorf("%d refused; %d files before, and now %v", refused, len(before), files(t, dir))
	}
	if err := out.Write(Stdout, make([]byte, 150)); !errors.Is(err, syscall.ENOSPC) && err != nil {
		t.Errorf("output: %v", err)
	}
	check(t, errors.Join(out.Close(), q.Finish(running.ID, Result{Reason: "exit"}, make([]byte, 30_000))))
	check(t, q.Close())

	q = open(t, dir, Options{}) // also on a full disk
	if j, _ := q.Get(running.ID); j.Reason != "exit" {
		t.Errorf("the outcome is %+v", j)
	}
	check(t, os.Remove(filepath.Join(disk, "ballast")))
	_, err = submit(q, 50, "", "module", strings.Repeat("input", 20_000))
	check(t, err)
	run(t, q, "")
	if info, err := os.Stat(filepath.Join(dir, reserveFile)); err != nil || info.Size() != reserveBytes {
		t.Errorf("reserve: %v", err)
	}
}

// fillUp writes a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1024))
	}
}
