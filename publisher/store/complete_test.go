package store_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestCompleteReportsAMissingLeaf(t *testing.T) {
	t.Parallel()
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	releases, err := repo.Releases(t.Context(), w.Repo())
	pubtest.Check(t, err)
	packs, err := store.Open(t.Context(), w.Path("store"), nil)
	pubtest.Check(t, err)
	defer packs.Close()
	pubtest.Check(t, store.Complete(t.Context(), packs, releases))
	rootfs, _ := releases[0].Artifact("rootfs")
	leaves, err := cas.Leaves(t.Context(), packs, rootfs.CID, rootfs.Length)
	pubtest.Check(t, err)
	part, gone := cas.NewMemory(), leaves[len(leaves)-1].CID
	pubtest.Check(t, packs.Each(t.Context(), func(c cid.Cid, _ int64) error {
		if bytes.Equal(c.Hash(), gone.Hash()) {
			return nil
		}
		data, err := packs.Block(t.Context(), c)
		pubtest.Check(t, err)
		return part.Put(t.Context(), c, data)
	}))
	if err := store.Complete(t.Context(), part, releases); err == nil || !strings.Contains(err.Error(), gone.String()) {
		t.Errorf("without %s: %v", gone, err)
	}
}
