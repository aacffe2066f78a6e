package queue

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A receipt that is on the disk has the digest of an output. After a power cut that output must be there too.
func TestTheOutputOfAFinishedJobIsOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, Options{})
	_, err := submit(q, 1, "", "module", "")
	check(t, err)
	j := claim(t, q)
	out, err := q.Begin(j.ID, Module{}, time.Now())
	check(t, err)
	check(t, out.Write(Stdout, make([]byte, 100)))
	path := filepath.Join(dir, outputDir, j.ID)
	dirty, known := dirtyPages(t, path)
	if !known || dirty == 0 {
		t.Logf("not tested: the kernel does not tell which pages of %s are dirty; run the test on Linux 6.5 with TMPDIR on a disk", dir)
		return
	}
	check(t, errors.Join(out.Close(), out.Close(), q.Finish(j.ID, Result{Reason: "exit"}, []byte("receipt"))))
	if dirty, _ = dirtyPages(t, path); dirty != 0 {
		t.Errorf("%d pages of the output are only in memory", dirty)
	}
}

// dirtyPages returns how many pages of a file are not on the disk, and whether the kernel tells.
func dirtyPages(t *testing.T, path string) (n uint64, known bool) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	var s unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &s, 0); err != nil {
		return 0, false
	}
	return s.Dirty + s.Writeback, true
}

// The worker closes an output twice, and logs the error of the second call.
func TestClosingAnOutputAgainReturnsTheSameError(t *testing.T) {
	q := open(t, t.TempDir(), Options{})
	_, err := submit(q, 1, "", "module", "")
	check(t, err)
	out, err := q.Begin(claim(t, q).ID, Module{}, time.Now())
	check(t, err)
	check(t, errors.Join(out.Write(Stdout, []byte("x")), out.f.Close()))
	for range 2 {
		if err := out.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}
