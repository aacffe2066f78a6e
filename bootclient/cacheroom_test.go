package bootclient_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestACacheDropsBlocksThatTheNewReleaseDoesNotNeed(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := smallDisk(t, 60)
	r := newRepo(t, "us", manifest.Discovery{})
	for i := range 5 {
		size := r.halfNew(i, 24<<20)
		first := bootOver(t, r, dir)
		if i > 0 && first > size*6/10 {
			t.Errorf("release %d: %d bytes came from the network, of a release of %d of which half is new", i, first, size)
		}
	}
	if again := bootOver(t, r, dir); again != 0 {
		t.Errorf("%d bytes came again", again)
	}
}

func TestACacheTooFullForGarbageCollectionIsEmptied(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := smallDisk(t, 36)
	r := newRepo(t, "us", manifest.Discovery{})
	r.halfNew(0, 24<<20)
	bootOver(t, r, dir)
	size := r.halfNew(1, 24<<20)
	if first := bootOver(t, r, dir); first < size*9/10 {
		t.Errorf("%d bytes came from the network: the cache was not emptied", first)
	}
	if again := bootOver(t, r, dir); again > size/100 { // metadata for others
		t.Errorf("%d bytes came again", again)
	}
}

func TestACacheSmallerThanTheReleaseKeepsWhatFits(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := smallDisk(t, 20)
	r := newRepo(t, "us", manifest.Discovery{})
	size := r.halfNew(0, 24<<20)
	bootOver(t, r, dir)
	for range 2 {
		if again := bootOver(t, r, dir); again > size/2 {
			t.Errorf("%d bytes of %d came again", again, size)
		}
	}
}

func TestRunSaysThatAFullDiskHasNotTheWholeRelease(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	r := newRepo(t, "us", manifest.Discovery{})
	r.halfNew(0, 24<<20)
	for size, want := range map[int]bool{9: false, 60: true} {
		m := newMachine(t, r, "private")
		m.cfg.Mode.Cache, m.cfg.Cache, m.cfg.Mirrors = "rw", filepath.Join(smallDisk(t, size), "cache"), []string{serve(t, r, nil).URL}
		stored := !want
		m.cfg.Stored = func(whole bool) { stored = whole }
		m.boots(r)
		if stored != want {
			t.Errorf("a disk of %d MiB: %t, want %t", size, stored, want)
		}
	}
}

// The release to which the machine may have to fall back stays in a small cache, in place of other releases, as long as
// there is room for the new one. Otherwise it goes, which is said.
func TestASmallCacheKeepsTheReleaseToFallBackTo(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	for size, kept := range map[int]bool{40: false, 72: true} { // MiB of the disk; each release has 13
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRepo(t, "us", manifest.Discovery{})
			m := newMachine(t, r, "internet")
			m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, filepath.Join(smallDisk(t, size), "cache")
			starts := 0
			m.cfg.Starts = func(manifest.Release) (int, bool) { return starts, false }
			var said strings.Builder
			boots := func(of *repo) (fetched int64) {
				t.Helper()
				m.report = report.New(time.Now(), &said)
				m.cfg.Report, m.cfg.Mirrors = m.report, []string{serve(t, r, nil).URL}
				m.boots(of)
				for _, s := range m.report.Sources() {
					if strings.HasPrefix(s.Kind, "mirror") {
						fetched = s.Bytes
					}
				}
				return fetched
			}
			publish := func(i int) {
				r.release(fmt.Sprint(i), map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(uint64(100+i), 12<<20)})
			}
			publish(2)
			boots(r)
			first := &repo{signed: r.signed}
			m.cfg.Blessed = []bootclient.Blessed{r.blessed(2)}
			for i := range 3 {
				publish(3 + i)
				boots(r)
			}
			if got := strings.Contains(said.String(), "no room for the last release that has started here; a fallback to it needs a source"); got == kept {
				t.Errorf("says %s", said.String())
			}
			starts = bootclient.MaxTries
			if n := boots(first); (n < 1<<20) != kept {
				t.Errorf("the fallback fetched %d bytes", n)
			}
		})
	}
}

// smallDisk mounts a disk of some MiB.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, unix.Mount("small-disk", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", size)))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// halfNew publishes a release with a rootfs of size bytes, of which the first half is the
// second half of the one before, and returns the bytes of its artifacts.
func (r *repo) halfNew(i, size int) (total int64) {
	old := r.signed["rootfs"]
	rootfs := append(bytes.Clone(old[max(0, len(old)-size/2):]), content(uint64(100+i), size/2)...)
	r.release(fmt.Sprint(i), map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": rootfs})
	for _, data := range r.signed {
		total += int64(len(data))
	}
	return total
}

// bootOver boots from a mirror with a cache in dir, and returns the bytes that the mirror gave.
func bootOver(t *testing.T, r *repo, dir string) (n int64) {
	t.Helper()
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache, m.cfg.Mirrors = filepath.Join(dir, "cache"), []string{serve(t, r, nil).URL}
	m.boots(r)
	for _, s := range m.report.Sources() {
		if strings.HasPrefix(s.Kind, "mirror") {
			n = s.Bytes
		}
	}
	return n
}

func TestACacheOnAFullDiskIsEmptied(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := smallDisk(t, 36)
	r := newRepo(t, "us", manifest.Discovery{})
	r.halfNew(0, 24<<20)
	bootOver(t, r, dir)
	fill(t, dir)
	size := r.halfNew(1, 12<<20)
	bootOver(t, r, dir)
	if again := bootOver(t, r, dir); again > size/100 { // metadata for others
		t.Errorf("%d bytes came again", again)
	}
}

func TestACacheOfOnePackThatFilledItsDiskIsEmptied(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	for _, left := range []int64{0, 26 << 20} { // free bytes of the disk; more bytes of the pack are needed
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			dir := smallDisk(t, 81)
			r := newRepo(t, "us", manifest.Discovery{})
			size := r.halfNew(1, 80<<20)
			r.onePack(filepath.Join(dir, "cache", "blocks"), left)
			bootOver(t, r, dir)
			if again := bootOver(t, r, dir); again > size/100 { // metadata for others
				t.Errorf("%d bytes came again", again)
			}
		})
	}
}

// onePack makes a cache of one pack, with most of the release and unneeded blocks, until so
// many bytes of the disk are left.
func (r *repo) onePack(dir string, left int64) {
	r.t.Helper()
	store, err := pack.Open(dir, pack.Options{})
	ok(r.t, err)
	put := func(data []byte) { ok(r.t, store.Put(r.t.Context(), cas.Sum(cid.Raw, data), data)) }
	leaves, err := cas.Leaves(r.t.Context(), r.store, r.cids["rootfs"], int64(len(r.signed["rootfs"])))
	ok(r.t, err)
	for _, l := range leaves[len(leaves)/8:] {
		data, err := cas.Get(r.t.Context(), r.store, l.CID)
		ok(r.t, err)
		put(data)
	}
	for i := uint64(1000); free(r.t, dir) > left+1<<20; i++ {
		put(content(i, 512<<10))
	}
	if left > 0 {
		ok(r.t, store.Close())
		return
	}
	fill(r.t, dir)
	if store.Close() == nil {
		r.t.Fatal("the disk is not full")
	}
}

// fill uses all bytes of a disk.
func fill(t *testing.T, dir string) {
	t.Helper()
	ok(t, os.WriteFile(filepath.Join(dir, "filler"), make([]byte, free(t, dir)), 0o600))
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var disk unix.Statfs_t
	ok(t, unix.Statfs(dir, &disk))
	return int64(disk.Bavail) * int64(disk.Bsize)
}
