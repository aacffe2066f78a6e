package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

func fsck(t *testing.T, dir string) (pack.Checked, []pack.Damage) {
	t.Helper()
	var found []pack.Damage
	var read, all int64
	checked, err := pack.Fsck(t.Context(), dir, func(d pack.Damage) { found = append(found, d) }, func(done, total int64) {
		if done < read || all != 0 && total != all {
			t.Errorf("progress goes from %d of %d to %d of %d", read, all, done, total)
		}
		read, all = done, total
	})
	if err != nil {
		t.Fatal(err)
	}
	if read != all {
		t.Errorf("at the end %d of %d bytes are read", read, all)
	}
	return checked, found
}

// careStore makes a store of some leaves and a node, and closes it. It returns its folder, its
// blocks, and a source of them.
func careStore(t *testing.T, opts pack.Options) (string, map[cid.Cid][]byte, *cas.Memory) {
	dir, peer := t.TempDir(), cas.NewMemory()
	p, err := pack.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	blocks := fill(t, p, 8, 200)
	node := castest.Bytes(99, 300)
	blocks[put(t, p, cid.DagProtobuf, node)] = node
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for c, data := range blocks {
		if err := peer.Put(t.Context(), c, data); err != nil {
			t.Fatal(err)
		}
	}
	return dir, blocks, peer
}

func put(t *testing.T, s cas.Store, codec uint64, data []byte) cid.Cid {
	t.Helper()
	c := cas.Sum(codec, data)
	if err := s.Put(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFsckFindsEveryFlippedByteAndRepairRestoresIt(t *testing.T) {
	dir, blocks, peer := careStore(t, pack.MergeAfter(pack.Options{MaxPack: 800}, 1))
	if checked, found := fsck(t, dir); len(found) > 0 || checked.Blocks != int64(len(blocks)) || checked.Packs < 3 {
		t.Fatalf("an undamaged store: %+v, %v", checked, found)
	}
	for _, path := range []string{packFile(dir, 1, "car"), packFile(dir, 1, "idx"), mergedFile(dir)} {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := range whole {
			bad := bytes.Clone(whole)
			bad[at] ^= 1 << (at % 8)
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			_, found := fsck(t, dir)
			if len(found) == 0 {
				t.Fatalf("%s: byte %d flipped, nothing found", path, at)
			}
			if at%29 != 0 {
				continue
			}
			if err := pack.Repair(t.Context(), dir, found, peer); err != nil {
				t.Fatalf("%s: byte %d: %v", path, at, err)
			}
			if _, found = fsck(t, dir); len(found) > 0 {
				t.Fatalf("%s: byte %d, after the repair: %v", path, at, found[0])
			}
			if filepath.Ext(path) == ".car" {
				if repaired, err := os.ReadFile(path); err != nil || !bytes.Equal(repaired, whole) {
					t.Fatalf("%s: byte %d: the repaired file differs (%v)", path, at, err)
				}
			}
			p := open(t, dir, pack.Options{ReadOnly: true})
			wantAll(t, p, blocks)
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// damageLastBlock changes a byte of the last block of a pack.
func damageLastBlock(t *testing.T, path string) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-5] ^= 1
	if err := os.WriteFile(path, whole, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRepairReportsBlocksThatItsSourceDoesNotHave(t *testing.T) {
	dir, _, _ := careStore(t, pack.Options{})
	damageLastBlock(t, packFile(dir, 1, "car"))
	_, found := fsck(t, dir)
	if err := pack.Repair(t.Context(), dir, found, cas.NewMemory()); err == nil {
		t.Error("no error, though the source is empty")
	}
	if _, again := fsck(t, dir); len(again) != 1 || !again[0].CID.Equals(found[0].CID) || !errors.Is(again[0].Err, cas.ErrCorrupt) {
		t.Errorf("found %v", again)
	}
	p := open(t, dir, pack.Options{})
	if err := pack.Repair(t.Context(), dir, found, cas.NewMemory()); err == nil {
		t.Errorf("repaired while the writer %v has the store", p)
	}
}

func TestCollectKeepsTheWantedBlocksOnly(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, pack.Options{MaxPack: 20_000})
	all := fill(t, p, 60, 1000)
	keep := map[cid.Cid][]byte{}
	for i, c := range slices.SortedFunc(maps.Keys(all), func(a, b cid.Cid) int { return len(all[a]) - len(all[b]) }) {
		if i < 20 || i > 50 { // whole packs are wanted, whole packs are not, and the rest is mixed
			keep[c] = all[c]
		}
	}
	wanted := func(c cid.Cid) bool { return keep[c] != nil }
	var read, size int64
	done, err := p.Collect(t.Context(), wanted, func(done, total int64) {
		if done < read || size != 0 && total != size {
			t.Errorf("progress goes from %d of %d to %d of %d", read, size, done, total)
		}
		read, size = done, total
	})
	if read != size || size == 0 {
		t.Errorf("at the end the progress is %d of %d bytes", read, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	err = p.Each(t.Context(), func(c cid.Cid, _ int64) error {
		if keep[c] == nil {
			left++
		}
		return nil
	})
	if err != nil || done.Blocks+int64(left) != int64(len(all)-len(keep)) || done.Blocks == 0 || done.Bytes == 0 {
		t.Errorf("%+v, %d unwanted blocks left (%v)", done, left, err)
	}
	wantAll(t, p, keep)
	wantAll(t, open(t, dir, pack.Options{ReadOnly: true}), keep)
	for c, data := range fill(t, p, 70, 1000) { // what was removed can come back
		keep[c] = data
	}
	wantAll(t, p, keep)
	if _, found := fsck(t, dir); len(found) > 0 {
		t.Error(found)
	}
	if _, err := p.Collect(t.Context(), func(cid.Cid) bool { return false }, nil); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Stats(t.Context()); err != nil || s.Blocks != 0 || s.Packs != 0 {
		t.Errorf("no block is kept: %+v, %v", s, err)
	}
}

func TestCollectDoesNotSpreadADamagedBlock(t *testing.T) {
	dir, blocks, _ := careStore(t, pack.Options{})
	path := packFile(dir, 1, "car")
	damageLastBlock(t, path)
	p := open(t, dir, pack.Options{})
	n := 0
	_, err := p.Collect(t.Context(), func(c cid.Cid) bool { n++; return c.Type() == cid.DagProtobuf || len(blocks[c]) > 204 }, nil)
	if !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the pack was removed:", err)
	}
}

// The test runs itself as four processes that read the same blocks repeatedly, while the test
// collects garbage in the store repeatedly.
func TestCollectWhileOthersRead(t *testing.T) {
	const env = "CAS_TEST_READER"
	keep := map[cid.Cid][]byte{}
	for i := range byte(10) {
		data := castest.Bytes(200+i, 3000)
		keep[cas.Sum(cid.Raw, data)] = data
	}
	if dir := os.Getenv(env); dir != "" {
		p := open(t, dir, pack.Options{ReadOnly: true})
		stop := make(chan struct{})
		go func() { io.Copy(io.Discard, os.Stdin); close(stop) }()
		for n := 0; ; n++ {
			wantAll(t, p, keep)
			if n == 0 {
				fmt.Println("reading")
			}
			select {
			case <-stop:
				return
			default:
			}
			if t.Failed() {
				return
			}
		}
	}
	dir := t.TempDir()
	p := open(t, dir, pack.MergeAfter(pack.Options{MaxPack: 30_000}, 1))
	for c, data := range keep {
		if err := p.Put(t.Context(), c, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	type reader struct {
		cmd   *exec.Cmd
		stdin io.Closer
		out   bytes.Buffer
	}
	readers := make([]*reader, 4)
	for i := range readers {
		r := &reader{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCollectWhileOthersRead$")}
		r.cmd.Env = append(os.Environ(), env+"="+dir)
		r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
		stdin, err := r.cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		r.stdin = stdin
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		readers[i] = r
	}
	for round := range 60 {
		for i := range 12 { // new garbage in every pack
			put(t, p, cid.Raw, castest.Bytes(byte(i), 2000+round))
		}
		if err := p.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Collect(t.Context(), func(c cid.Cid) bool { return keep[c] != nil }, nil); err != nil {
			t.Fatal(err)
		}
		wantAll(t, p, keep)
	}
	for _, r := range readers {
		r.stdin.Close()
		if err := r.cmd.Wait(); err != nil || !bytes.Contains(r.out.Bytes(), []byte("reading")) {
			t.Errorf("reader: %v\n%.2000s", err, r.out.Bytes())
		}
	}
}

func TestCollectKeepsTheUndamagedOneOfTwoCopies(t *testing.T) {
	dir := t.TempDir()
	w, err := pack.Open(dir, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	blocks := fill(t, w, 8, 1000)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ext := range []string{"car", "idx"} {
		data, err := os.ReadFile(packFile(dir, 1, ext))
		if err != nil {
			t.Fatal(err)
		}
		if ext == "car" {
			data[len(data)-1] ^= 1 // of the last block
		}
		if err := os.WriteFile(packFile(dir, 9, ext), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	last := cas.Sum(cid.Raw, castest.Bytes(7, 1007))
	w = open(t, dir, pack.Options{})
	if _, err := w.Collect(t.Context(), func(c cid.Cid) bool { return c == last }, nil); err != nil {
		t.Error(err)
	}
	wantAll(t, w, map[cid.Cid][]byte{last: blocks[last]})
}

func TestAClearedStoreTakesBlocksAgain(t *testing.T) {
	opts := pack.Options{MaxPack: 500}
	dir, blocks, _ := careStore(t, opts)
	empty := func(s *pack.Store) error {
		held, err := s.Stats(t.Context())
		if err != nil {
			return err
		}
		n, err := s.Clear(t.Context())
		if left, e := s.Stats(t.Context()); n != held.Bytes || e != nil || left != (pack.Stats{}) {
			t.Errorf("%d of %d bytes removed, %+v left: %v", n, held.Bytes, left, e)
		}
		return err
	}
	again := func(s *pack.Store) error {
		for c, data := range blocks {
			if err := s.Put(t.Context(), c, data); err != nil {
				return err
			}
		}
		return nil
	}
	for _, do := range []func(*pack.Store) error{empty, again, empty, again} {
		s, err := pack.Open(dir, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(do(s), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if checked, found := fsck(t, dir); int(checked.Blocks) != len(blocks) || len(found) > 0 {
		t.Errorf("%d of %d blocks, damage %v", checked.Blocks, len(blocks), found)
	}
}
