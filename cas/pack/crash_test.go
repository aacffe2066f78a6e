package pack_test

import (
	"errors"
	"os"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// crashWork puts blocks into several packs, syncs repeatedly and collects half of the blocks,
// until the disk fails. It returns the blocks that were synced.
func crashWork(t *testing.T, dir string, opts pack.Options) (map[cid.Cid][]byte, error) {
	safe, since := map[cid.Cid][]byte{}, map[cid.Cid][]byte{}
	p, err := pack.Open(dir, opts)
	if err != nil {
		return safe, err
	}
	defer p.Close()
	for i := range 24 {
		data := castest.Bytes(byte(i), 2000+100*i)
		c := cas.Sum(cid.Raw, data)
		if err := p.Put(t.Context(), c, data); err != nil {
			return safe, err
		}
		since[c] = data
		if i%3 == 2 {
			if err := p.Sync(t.Context()); err != nil {
				return safe, err
			}
			for c, data := range since {
				safe[c] = data
			}
			clear(since)
		}
		if i == 14 {
			n := 0
			drop := map[cid.Cid]bool{}
			for c := range safe {
				if n++; n%2 == 0 {
					drop[c] = true
				}
			}
			for c := range drop {
				delete(safe, c) // from here on it may be in the store or not
			}
			if _, err := p.Collect(t.Context(), func(c cid.Cid) bool { return !drop[c] }, nil); err != nil {
				return safe, err
			}
		}
	}
	return safe, p.Close()
}

// wantUndamaged checks that the safe blocks are in the store, and that every listed block is
// undamaged.
func wantUndamaged(t *testing.T, dir string, opts pack.Options, safe map[cid.Cid][]byte) {
	t.Helper()
	p, err := pack.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, p, safe)
	err = p.Each(t.Context(), func(c cid.Cid, _ int64) error {
		_, err := cas.Get(t.Context(), p, c)
		return err
	})
	if err != nil {
		t.Error("a listed block:", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// cutEverywhere cuts the power at each operation of the writer in turn, and calls check with
// the folder and the blocks that were synced. It returns the number of cuts.
func cutEverywhere(t *testing.T, opts pack.Options, how string, check func(dir string, safe map[cid.Cid][]byte)) (cuts int) {
	t.Helper()
	step := 1
	if testing.Short() {
		step = 7 // a sample
	}
	for ops := 1; ; ops += step {
		dir := t.TempDir()
		d := pack.FailingDisk{Ops: ops}
		safe, err := crashWork(t, dir, d.Options(opts))
		if !d.Failed() {
			if err != nil || len(safe) < 15 {
				t.Fatalf("without a power cut: %d blocks, %v", len(safe), err)
			}
			return ops / step
		}
		if !errors.Is(err, pack.ErrPower) && err != nil {
			t.Fatalf("operation %d: %v", ops, err)
		}
		if err := d.Cut(how); err != nil {
			t.Fatal(err)
		}
		check(dir, safe)
		if t.Failed() {
			t.Fatalf("after operation %d", ops)
		}
		os.RemoveAll(dir) // there are hundreds
	}
}

// Whichever operation is the last, and whichever bytes of it reach the disk: every synced
// block is in the store, and every listed block is undamaged.
func TestAPowerCutAtAnyOperationLosesNoSyncedBlock(t *testing.T) {
	opts := pack.MergeAfter(pack.Options{MaxPack: 12_000}, 1)
	cuts := 0
	for _, how := range []string{pack.CutKilled, pack.CutLost, pack.CutZeroed, pack.CutRenames} {
		t.Run(how, func(t *testing.T) {
			cuts += cutEverywhere(t, opts, how, func(dir string, safe map[cid.Cid][]byte) {
				wantUndamaged(t, dir, pack.Options{ReadOnly: true}, safe)
				wantUndamaged(t, dir, opts, safe)
				if _, found := fsck(t, dir); len(found) > 0 {
					t.Errorf("after the recovery: %v", found[0])
				}
			})
		})
	}
	t.Logf("%d power cuts", cuts)
}

// A lazy store may lose or damage only blocks that were not synced.
func TestAPowerCutOfALazyStoreLosesNoSyncedBlock(t *testing.T) {
	opts := pack.MergeAfter(pack.Options{MaxPack: 6_000, Lazy: true}, 1)
	for _, how := range []string{pack.CutZeroed, pack.CutRenames} {
		t.Run(how, func(t *testing.T) {
			cutEverywhere(t, opts, how, func(dir string, safe map[cid.Cid][]byte) {
				p, err := pack.Open(dir, opts)
				if err != nil {
					t.Fatal(err)
				}
				wantAll(t, p, safe)
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Filling packs of a lazy store syncs nothing.
func TestALazyStoreDoesNotWaitForTheDisk(t *testing.T) {
	dir := t.TempDir()
	d := pack.FailingDisk{Ops: 1 << 20}
	p, err := pack.Open(dir, d.Options(pack.Options{MaxPack: 6_000, Lazy: true}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 24 {
		data := castest.Bytes(byte(i), 2000+100*i)
		if err := p.Put(t.Context(), cas.Sum(cid.Raw, data), data); err != nil {
			t.Fatal(err)
		}
	}
	if stats, err := p.Stats(t.Context()); err != nil || stats.Packs < 10 || d.Syncs != 0 {
		t.Errorf("%d packs, %d syncs: %v", stats.Packs, d.Syncs, err)
	}
	if err := p.Close(); err != nil || d.Syncs < 10 {
		t.Errorf("%d syncs at the end: %v", d.Syncs, err)
	}
}
