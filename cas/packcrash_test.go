package cas_test

import (
	"errors"
	"os"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

// crashWork puts blocks, syncs now and then, fills several packs and collects one of two
// blocks, until the disk dies. It returns the blocks that were reported kept.
func crashWork(t *testing.T, dir string, opts cas.PackOptions) (map[cid.Cid][]byte, error) {
	safe, since := map[cid.Cid][]byte{}, map[cid.Cid][]byte{}
	p, err := cas.OpenPacks(dir, opts)
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
				delete(safe, c) // asked for: from here on it may be there or not
			}
			if _, err := p.Collect(t.Context(), func(c cid.Cid) bool { return !drop[c] }); err != nil {
				return safe, err
			}
		}
	}
	return safe, p.Close()
}

func wantSound(t *testing.T, dir string, opts cas.PackOptions, safe map[cid.Cid][]byte) {
	t.Helper()
	p, err := cas.OpenPacks(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, p, safe)
	err = p.Each(t.Context(), func(c cid.Cid, _ int64) error {
		_, err := cas.Get(t.Context(), p, c)
		return err
	})
	if err != nil {
		t.Error("a block that is listed:", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// cutEverywhere takes the power at each operation of the writer in turn, and has what is
// left checked, with the blocks that were reported kept. It returns how many times.
func cutEverywhere(t *testing.T, opts cas.PackOptions, how string, check func(dir string, safe map[cid.Cid][]byte)) (cuts int) {
	t.Helper()
	step := 1
	if testing.Short() {
		step = 7 // a sample
	}
	for ops := 1; ; ops += step {
		dir := t.TempDir()
		d := cas.DyingDisk{Ops: ops}
		safe, err := crashWork(t, dir, d.Options(opts))
		if !d.Dead() {
			if err != nil || len(safe) < 15 {
				t.Fatalf("alive to the end: %d blocks, %v", len(safe), err)
			}
			return ops / step
		}
		if !errors.Is(err, cas.ErrPower) && err != nil {
			t.Fatalf("operation %d: %v", ops, err)
		}
		if err := d.Cut(how); err != nil {
			t.Fatal(err)
		}
		check(dir, safe)
		if t.Failed() {
			t.Fatalf("after operation %d", ops)
		}
		os.RemoveAll(dir) // hundreds of them would stay to the end
	}
}

// Whatever the writer does last, and whatever of it reaches the disk: what was reported
// kept is there, and what is listed is right.
func TestPowerMayFailAtEveryWriteAndSync(t *testing.T) {
	opts := cas.MergeAfter(cas.PackOptions{MaxPack: 12_000}, 1)
	cuts := 0
	for _, how := range []string{cas.CutKilled, cas.CutLost, cas.CutZeroed, cas.CutRenames} {
		t.Run(how, func(t *testing.T) {
			cuts += cutEverywhere(t, opts, how, func(dir string, safe map[cid.Cid][]byte) {
				wantSound(t, dir, cas.PackOptions{ReadOnly: true}, safe)
				wantSound(t, dir, opts, safe)
				if _, found := fsck(t, dir); len(found) > 0 {
					t.Errorf("mended, and then %v", found[0])
				}
			})
		})
	}
	t.Logf("%d power cuts", cuts)
}

// A lazy store may lose or damage what was not reported kept, and nothing else.
func TestPowerMayFailWhileALazyStoreIsBehind(t *testing.T) {
	opts := cas.MergeAfter(cas.PackOptions{MaxPack: 6_000, Lazy: true}, 1)
	for _, how := range []string{cas.CutZeroed, cas.CutRenames} {
		t.Run(how, func(t *testing.T) {
			cutEverywhere(t, opts, how, func(dir string, safe map[cid.Cid][]byte) {
				p, err := cas.OpenPacks(dir, opts)
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

// To fill packs of a lazy store asks nothing of the disk that takes it long.
func TestALazyStoreDoesNotWaitForTheDisk(t *testing.T) {
	dir := t.TempDir()
	d := cas.DyingDisk{Ops: 1 << 20}
	p, err := cas.OpenPacks(dir, d.Options(cas.PackOptions{MaxPack: 6_000, Lazy: true}))
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
