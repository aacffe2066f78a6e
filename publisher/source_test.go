package publisher

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestTheLastGenerationsStayReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	packs, err := store.Open(t.Context(), w.Path("store"), nil)
	pubtest.Check(t, err)
	defer packs.Close()
	source := newGenerations(packs)
	var all []*repo.Pointer
	for i := range keptGenerations + 1 {
		w.Add(w.Sign(int64(i+2), fmt.Sprintf("v%d", i+2), w.Release))
		p, err := pubtest.ReadPointer(t.Context(), w.Repo())
		pubtest.Check(t, err)
		source.add(&generation{Pointer: p})
		all = append(all, p)
	}
	for i, p := range all {
		_, err := cas.Get(t.Context(), source, p.Folder)
		if i == 0 && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the oldest: %v, want not found", err)
		} else if i > 0 && err != nil {
			t.Errorf("generation %d: %v", i+1, err)
		}
	}
}

// A CAR is built in one buffer, without a buffer for each block.
func TestBlocksAreReadIntoTheCallersBuffer(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	packs, err := store.Open(t.Context(), w.Path("store"), nil)
	pubtest.Check(t, err)
	defer packs.Close()
	rootfs, _ := w.Verify(manifest.DirFetcher(w.Repo())).Release().Artifact(manifest.RoleRootfs)
	leaves, err := cas.Leaves(t.Context(), packs, rootfs.CID, rootfs.Length)
	pubtest.Check(t, err)
	source, room := newGenerations(packs), append(make([]byte, 0, cas.MaxBlock), "before it"...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, l := range leaves {
		got, err := source.AppendBlock(t.Context(), l.CID, int(l.Size), room)
		pubtest.Check(t, err)
		if string(got[:len(room)]) != "before it" || cas.Check(l.CID, got[len(room):]) != nil {
			t.Fatalf("%s: not appended to the buffer", l.CID)
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > uint64(rootfs.Length)/4 {
		t.Errorf("%d bytes of memory for %d bytes of blocks", took, rootfs.Length)
	}
	if _, err := source.AppendBlock(t.Context(), cas.Sum(cid.Raw, []byte("unknown")), -1, room); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a block that is nowhere: %v", err)
	}
}
