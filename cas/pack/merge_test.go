package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	carindex "github.com/ipld/go-car/v2/index"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// small is for small packs, of which at most two are not merged.
var small = pack.MergeAfter(pack.Options{MaxPack: 5000}, 2)

func mergedFile(dir string) string { return filepath.Join(dir, "packs.idx") }

// mergedStore makes a store of about ten small packs and closes it.
func mergedStore(t *testing.T) (string, map[cid.Cid][]byte) {
	dir := t.TempDir()
	p, err := pack.Open(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	blocks := fill(t, p, 40, 1000)
	old := []byte("a name of sha2-256")
	h, err := mh.Sum(old, mh.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	c := cid.NewCidV1(cid.Raw, h)
	if err := errors.Join(p.Put(t.Context(), c, old), p.Close()); err != nil {
		t.Fatal(err)
	}
	blocks[c] = old
	return dir, blocks
}

func logged(opts pack.Options) (pack.Options, *bytes.Buffer) {
	var b bytes.Buffer
	opts.Log = slog.New(slog.NewTextHandler(&b, nil))
	return opts, &b
}

func TestAStoreOfManyPacksHasAMergedIndex(t *testing.T) {
	dir, blocks := mergedStore(t)
	opts, log := logged(pack.Options{ReadOnly: true})
	r := open(t, dir, opts)
	unmerged, packs := r.Unmerged()
	if packs < 9 || unmerged > 3 { // two sealed packs and the open one
		t.Errorf("%d packs, %d not merged", packs, unmerged)
	}
	wantAll(t, r, blocks)
	if s, err := r.Stats(t.Context()); err != nil || s.Blocks != int64(len(blocks)) {
		t.Errorf("%+v, %v, want %d blocks", s, err, len(blocks))
	}
	listed := 0
	err := r.Each(t.Context(), func(c cid.Cid, _ int64) error {
		listed++
		if blocks[c] == nil {
			t.Errorf("lists %s", c)
		}
		return nil
	})
	if err != nil || listed != len(blocks) {
		t.Errorf("lists %d blocks, %v", listed, err)
	}
	if log.Len() > 0 {
		t.Errorf("an undamaged store is logged as %s", log)
	}
	// A reader that is open sees the blocks that a writer adds.
	w := open(t, dir, small)
	for i := range byte(40) {
		data := castest.Bytes(100+i, 1000)
		blocks[put(t, w, cid.Raw, data)] = data
		put(t, w, cid.Raw, castest.Bytes(i, 1000+int(i))) // known
	}
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAll(t, w, blocks)
	wantAll(t, r, blocks)
	if s, err := w.Stats(t.Context()); err != nil || s.Blocks != int64(len(blocks)) {
		t.Errorf("%+v, %v, want %d blocks", s, err, len(blocks))
	}
}

// Whatever damage the merged index has, every block is found, and the next writer restores the
// index.
func TestADamagedMergedIndexIsWrittenAgain(t *testing.T) {
	for name, damage := range map[string]func(path string, whole []byte) error{
		"missing": func(path string, _ []byte) error { return os.Remove(path) },
		"empty":   func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o644) },
		"half":    func(path string, whole []byte) error { return os.WriteFile(path, whole[:len(whole)/2], 0o644) },
		"a bit": func(path string, whole []byte) error {
			whole[len(whole)/3] ^= 4
			return os.WriteFile(path, whole, 0o644)
		},
		"a pack's index": func(path string, _ []byte) error {
			idx, err := os.ReadFile(packFile(filepath.Dir(path), 1, "idx"))
			return errors.Join(err, os.WriteFile(path, idx, 0o644))
		},
		"torn while it was written": func(path string, whole []byte) error {
			return errors.Join(os.Remove(path), os.WriteFile(path+".tmp", whole[:100], 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, blocks := mergedStore(t)
			whole, err := os.ReadFile(mergedFile(dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(mergedFile(dir), bytes.Clone(whole)); err != nil {
				t.Fatal(err)
			}
			wantAll(t, open(t, dir, pack.Options{ReadOnly: true}), blocks)
			w := open(t, dir, small)
			wantAll(t, w, blocks)
			if unmerged, _ := w.Unmerged(); unmerged > 3 {
				t.Errorf("%d packs not merged", unmerged)
			}
			if _, err := os.Stat(mergedFile(dir) + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a temporary file is left: %v", err)
			}
		})
	}
}

// A merged index that is older than the packs covers only the packs that have not changed.
func TestAnOutdatedMergedIndexHidesNoBlock(t *testing.T) {
	dir, blocks := mergedStore(t)
	old, err := os.ReadFile(mergedFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	w, err := pack.Open(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	drop := map[cid.Cid]bool{}
	for c := range blocks {
		if n++; n%2 == 0 {
			drop[c] = true
		}
	}
	if _, err := w.Collect(t.Context(), func(c cid.Cid) bool { return !drop[c] }, nil); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(blocks, func(c cid.Cid, _ []byte) bool { return drop[c] })
	for i := range byte(20) {
		data := castest.Bytes(100+i, 1000)
		blocks[put(t, w, cid.Raw, data)] = data
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// New packs get the numbers of packs that were removed.
	for num := 1; num < 4; num++ {
		from, to := packFile(dir, 20+num, "car"), packFile(dir, num, "car")
		if err := os.Rename(from, to); err != nil {
			continue
		}
		if err := os.Rename(strings.Replace(from, ".car", ".idx", 1), strings.Replace(to, ".car", ".idx", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(mergedFile(dir), old, 0o644); err != nil {
		t.Fatal(err)
	}
	wantAll(t, open(t, dir, pack.Options{ReadOnly: true}), blocks)
	wantAll(t, open(t, dir, small), blocks)
}

// A pack whose own index is damaged is read, listed and collected by the merged index.
func TestAMergedPackIsReadWithoutItsOwnIndex(t *testing.T) {
	dir, blocks := mergedStore(t)
	for num := 1; num < 4; num++ {
		idx, err := os.ReadFile(packFile(dir, num, "idx"))
		if err != nil {
			t.Fatal(err)
		}
		idx[len(idx)/3] ^= 4
		if err := os.WriteFile(packFile(dir, num, "idx"), idx, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := open(t, dir, small)
	wantAll(t, w, blocks)
	listed := map[cid.Cid]bool{}
	if err := w.Each(t.Context(), func(c cid.Cid, _ int64) error { listed[c] = true; return nil }); err != nil || len(listed) != len(blocks) {
		t.Errorf("lists %d of %d blocks, %v", len(listed), len(blocks), err)
	}
	n := 0
	maps.DeleteFunc(blocks, func(cid.Cid, []byte) bool { n++; return n%2 == 0 })
	done, err := w.Collect(t.Context(), func(c cid.Cid) bool { return blocks[c] != nil }, nil)
	if err != nil || done.Blocks == 0 {
		t.Errorf("collected %+v, %v", done, err)
	}
	wantAll(t, w, blocks)
}

// A merged index with a correct checksum that does not list a block hides the block: Fsck
// reports it, and Repair removes the index.
func TestFsckComparesTheMergedIndexWithThePacks(t *testing.T) {
	dir, blocks := mergedStore(t)
	check := func() (damage []pack.Damage) {
		if _, err := pack.Fsck(t.Context(), dir, func(d pack.Damage) { damage = append(damage, d) }, nil); err != nil {
			t.Fatal(err)
		}
		return damage
	}
	if damage := check(); len(damage) != 0 {
		t.Fatalf("an undamaged store: %v", damage)
	}
	idx, err := os.ReadFile(mergedFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	for c := range blocks {
		if at := bytes.Index(idx, c.Hash()[2:]); at > 0 {
			idx[at+1] ^= 4 // of its digest
			break
		}
	}
	if err := os.WriteFile(mergedFile(dir), pack.FixIndexSum(idx), 0o644); err != nil {
		t.Fatal(err)
	}
	damage := check()
	if len(damage) != 1 || damage[0].File != mergedFile(dir) || !errors.Is(damage[0].Err, cas.ErrCorrupt) || !strings.Contains(damage[0].Err.Error(), "lacks the block at byte") {
		t.Errorf("found %v", damage)
	}
	if err := pack.Repair(t.Context(), dir, damage, nil); err != nil {
		t.Error(err)
	}
	wantAll(t, open(t, dir, small), blocks)
	if damage := check(); len(damage) != 0 {
		t.Errorf("after the repair: %v", damage)
	}
}

// go-car reads the merged index as a CAR index.
func TestTheMergedIndexIsSorted(t *testing.T) {
	dir, blocks := mergedStore(t)
	data, err := os.ReadFile(mergedFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	idx, err := carindex.ReadFrom(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for c := range blocks {
		err := idx.GetAll(c, func(uint64) bool { found++; return true })
		if err != nil && !errors.Is(err, carindex.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if found < len(blocks)/2 {
		t.Errorf("go-car finds %d of %d blocks", found, len(blocks))
	}
}

// Whatever bytes the merged index has: the store opens, and Get returns no wrong block.
func FuzzMergedOpen(f *testing.F) {
	packed, offsets := seedPack()
	merged := pack.EncodeMerged(offsets, 1, int64(len(packed)))
	f.Add(merged)
	f.Add(merged[:len(merged)-33])
	f.Add([]byte("PHASEPX1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{
			packFile(dir, 1, "car"): packed, packFile(dir, 1, "idx"): pack.EncodeIndex(offsets, int64(len(packed))),
			mergedFile(dir): pack.FixIndexSum(data),
		} {
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, ro := range []bool{true, false} {
			p, err := pack.Open(dir, pack.Options{ReadOnly: ro})
			if err != nil {
				t.Fatal(err)
			}
			for c := range offsets {
				if _, err := cas.Get(t.Context(), p, c); err != nil && !isAbsentOrCorrupt(err) {
					t.Fatal(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// BenchmarkLookup looks up listed and missing blocks in 64 packs.
func BenchmarkLookup(b *testing.B) {
	dir := b.TempDir()
	p, err := pack.Open(dir, pack.MergeAfter(pack.Options{MaxPack: 64 << 10}, 4))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	var names []cid.Cid
	for i := range 64 << 10 {
		data := fmt.Appendf(nil, "%060d", i)
		c := cas.Sum(cid.Raw, data)
		if err := p.Put(b.Context(), c, data); err != nil {
			b.Fatal(err)
		}
		names = append(names, c)
	}
	for name, sought := range map[string]func(i int) cid.Cid{
		"there": func(i int) cid.Cid { return names[i*7919%len(names)] },
		"not":   func(i int) cid.Cid { return cas.Sum(cid.Raw, []byte{byte(i), byte(i >> 8), byte(i >> 16)}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if ok, err := p.Has(b.Context(), sought(i)); err != nil || ok != (name == "there") {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
