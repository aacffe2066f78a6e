package publisher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestTheHeadIsAPureFunctionOfTheFiles(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.add(w.sign(2, "v2", w.release))
	one, err := ReadHead(t.Context(), w.repo())
	check(t, err)
	want := []string{"1.root.json", "1.targets.json", "2.snapshot.json", "2.stable-x86_64.json", "timestamp.json"}
	if fmt.Sprint(one.Names) != fmt.Sprint(want) {
		t.Errorf("got files %q, want %q", one.Names, want)
	}
	copied := t.TempDir()
	check(t, os.CopyFS(copied+"/repo", os.DirFS(w.repo())))
	check(t, os.WriteFile(copied+"/repo/notes.txt", []byte("not metadata"), 0o600))
	two, err := ReadHead(t.Context(), copied+"/repo")
	check(t, err)
	if !one.Folder.Equals(two.Folder) {
		t.Errorf("the same files make %s and %s", one.Folder, two.Folder)
	}
	v := w.verify(folder{one.blocks, one.Folder.String()})
	if v.Release().Version != "v2" {
		t.Errorf("the folder holds %q", v.Release().Version)
	}
}

func TestARepositoryWithoutAReleaseHasNoHead(t *testing.T) {
	w := newWorld(t)
	if _, err := ReadHead(t.Context(), w.repo()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestTheLastGenerationsStayReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	store, err := openStore(w.path("store"), nil)
	check(t, err)
	defer store.Close()
	heads := newHeads(store)
	var all []*Head
	for i := range generations + 1 {
		w.add(w.sign(int64(i+2), fmt.Sprintf("v%d", i+2), w.release))
		h, err := ReadHead(t.Context(), w.repo())
		check(t, err)
		heads.add(h)
		all = append(all, h)
	}
	for i, h := range all {
		_, err := cas.Get(t.Context(), heads, h.Folder)
		if i == 0 && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the oldest: %v, want not found", err)
		} else if i > 0 && err != nil {
			t.Errorf("generation %d: %v", i+1, err)
		}
	}
}

// A CAR is gathered in one buffer: its blocks are not read into memory of their own first.
func TestBlocksOfTheStoreAreReadIntoTheBufferOfTheirAsker(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	store, err := openStore(w.path("store"), nil)
	check(t, err)
	defer store.Close()
	rootfs, _ := w.verify(manifest.DirFetcher(w.repo())).Release().Artifact(manifest.RoleRootfs)
	leaves, err := cas.Leaves(t.Context(), store, rootfs.CID, rootfs.Length)
	check(t, err)
	heads, room := newHeads(store), append(make([]byte, 0, cas.MaxBlock), "before it"...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, l := range leaves {
		got, err := heads.AppendBlock(t.Context(), l.CID, room)
		check(t, err)
		if string(got[:len(room)]) != "before it" || cas.Check(l.CID, got[len(room):]) != nil {
			t.Fatalf("%s: not behind the end of the buffer", l.CID)
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > uint64(rootfs.Length)/4 {
		t.Errorf("%d bytes of memory for %d bytes of blocks", took, rootfs.Length)
	}
	if _, err := heads.AppendBlock(t.Context(), cas.Sum(cid.Raw, []byte("unheard of")), room); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a block that is nowhere: %v", err)
	}
}
