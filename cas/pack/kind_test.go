package pack_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

// kindStore makes a store that has every file that a store can have: packs 1 to 3 are merged.
func kindStore(t *testing.T) (dir string, blocks map[cid.Cid][]byte) {
	t.Helper()
	dir = t.TempDir()
	opts := pack.MergeAfter(pack.Options{MaxPack: 1 << 10}, 1)
	w := open(t, dir, opts)
	blocks = fill(t, w, 60, 90)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "packs.idx", "pack-00000001.car", "pack-00000001.idx"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, blocks
}

// An attacker replaces a file of the store by another kind of file. Whatever kind it is, every
// use of the store ends, changes nothing outside its folder, and fails only with ErrCorrupt
// or a permission error.
func TestAnyKindOfFileInAStoreIsHandled(t *testing.T) {
	master, _ := kindStore(t)
	last := ""
	entries, err := os.ReadDir(master)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".car") {
			last = strings.TrimSuffix(e.Name(), ".car")
		}
	}
	names := []string{
		"lock", "packs.idx", "packs.idx.tmp", "pack-00000001.car", "pack-00000001.idx", "pack-00000001.idx.tmp",
		last + ".car", last + ".idx", "pack-00000900.car", "pack-00000900.idx", "pack-00000901.car.tmp",
	}
	cells := 0
	for _, kind := range filetest.Kinds() {
		for _, name := range names {
			if cells++; testing.Short() && cells%3 != 0 { // a sample of each kind and each name
				continue
			}
			t.Run(kind.Name+"/"+strings.Replace(name, last, "last", 1), func(t *testing.T) {
				dir, blocks := kindStore(t)
				path := filepath.Join(dir, name)
				if err := errors.Join(os.RemoveAll(path), kind.Make(path, filetest.Outside(t))); err != nil {
					t.Fatal(err)
				}
				filetest.Ends(t, func() { useEverything(t, dir, blocks) })
			})
		}
	}
	t.Logf("%d cells", cells)
}

// useEverything reads, checks and writes a store.
func useEverything(t *testing.T, dir string, blocks map[cid.Cid][]byte) {
	t.Helper()
	acceptable := func(err error) bool {
		return err == nil || errors.Is(err, cas.ErrCorrupt) || errors.Is(err, fs.ErrPermission)
	}
	use := func(opts pack.Options) (found int) {
		p, err := pack.OpenContext(t.Context(), dir, opts)
		if err != nil {
			if !acceptable(err) {
				t.Errorf("open: %v", err)
			}
			return -1
		}
		for c, data := range blocks {
			got, err := cas.Get(t.Context(), p, c)
			if err == nil && string(got) == string(data) {
				found++
			} else if !acceptable(err) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get: %v", err)
			}
		}
		if !opts.ReadOnly {
			c := put(t, p, cid.Raw, []byte("a new block"))
			if err := p.Sync(t.Context()); err != nil {
				t.Errorf("sync: %v", err)
			}
			if _, err := cas.Get(t.Context(), p, c); err != nil {
				t.Errorf("the new block: %v", err)
			}
		}
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		return found
	}
	if n := use(pack.Options{ReadOnly: true}); n >= 0 && n < len(blocks)-20 {
		t.Errorf("a reader finds %d of %d blocks", n, len(blocks))
	}
	if _, err := pack.Fsck(t.Context(), dir, func(pack.Damage) {}, nil); !acceptable(err) {
		t.Errorf("fsck: %v", err)
	}
	if n := use(pack.Options{}); n >= 0 && n < len(blocks)-20 {
		t.Errorf("a writer finds %d of %d blocks", n, len(blocks))
	}
	if _, err := pack.IsStore(dir); !acceptable(err) {
		t.Errorf("is it a store: %v", err)
	}
}

// The store has 600 packs, each with an index.
func TestAStoreOfManyPacksOpensFewFiles(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, pack.MergeAfter(pack.Options{MaxPack: 100}, 1<<20))
	blocks := fill(t, w, 600, 90)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]pack.Options{
		"reader": {ReadOnly: true}, "writer": {MaxPack: 100}, "writer without a merged index": pack.MergeAfter(pack.Options{MaxPack: 100}, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			p := open(t, dir, opts)
			if _, all := p.Unmerged(); all < 600 {
				t.Fatalf("%d packs", all)
			}
			wantAll(t, p, blocks)
			if n := descriptors(t) - before; n > 200 {
				t.Errorf("%d packs: %d files are open", len(blocks), n)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if n := descriptors(t) - before; n > 2 {
				t.Errorf("%d files are still open after Close", n)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The process can open no more files: that is an error, and not a missing block.
func TestWithoutFileDescriptorsNoBlockIsReportedMissing(t *testing.T) {
	dir, _ := kindStore(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{true, false} {
		few := unix.Rlimit{Cur: uint64(descriptors(t)) + 3, Max: was.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		p, err := pack.Open(dir, pack.Options{ReadOnly: ro})
		if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); e != nil {
			t.Fatal(e)
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("read only %v: %v, want EMFILE", ro, err)
		}
		if p != nil {
			p.Close()
		}
	}
}

// A sparse index file needs no disk space of the attacker who made it, and no memory of the
// reader.
func TestASparseIndexCostsNoMemory(t *testing.T) {
	merged := func(entries uint64) []byte { return append([]byte("PHASEPX1"), le(entries)...) }
	for name, c := range map[string]struct {
		file string
		size int64
		tail []byte
	}{
		"a list of four million packs": {"packs.idx", 235 << 20, merged(4 << 20)},
		"a merged index of 64 GiB":     {"packs.idx", 64 << 30, merged(0)},
		"a list of 32768 packs":        {"packs.idx", 64 << 30, merged(1 << 15)},
		"an index of 64 GiB":           {"pack-00000001.idx", 64 << 30, append([]byte("PHASEIX1"), le(30)...)},
	} {
		t.Run(name, func(t *testing.T) {
			dir, blocks := kindStore(t)
			path := filepath.Join(dir, c.file)
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(c.tail, c.size-int64(len(c.tail))-32)
			if err := errors.Join(err, f.Truncate(c.size), f.Close()); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p, err := pack.Open(dir, pack.Options{ReadOnly: true})
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			wantAll(t, p, blocks)
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 16 {
				t.Errorf("%d MiB were allocated to open it", n)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func le(n uint64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return b
}

func TestOpeningAStoreEndsWithItsContext(t *testing.T) {
	dir, _ := kindStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	because := fmt.Errorf("the boot cannot wait")
	cancel(because)
	for _, ro := range []bool{true, false} {
		if p, err := pack.OpenContext(ctx, dir, pack.Options{ReadOnly: ro}); !errors.Is(err, because) || p != nil {
			t.Errorf("read only %v: %v", ro, err)
		}
	}
}
