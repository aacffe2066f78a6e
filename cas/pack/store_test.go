package pack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	carindex "github.com/ipld/go-car/v2/index"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/netns"
)

func open(t *testing.T, dir string, opts pack.Options) *pack.Store {
	t.Helper()
	p, err := pack.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error("close:", err)
		}
	})
	return p
}

// fill puts n blocks of about size bytes each and returns them.
func fill(t *testing.T, s cas.Store, n, size int) map[cid.Cid][]byte {
	t.Helper()
	blocks := make(map[cid.Cid][]byte)
	for i := range n {
		data := castest.Bytes(byte(i), size+i)
		c := cas.Sum(cid.Raw, data)
		if err := s.Put(t.Context(), c, data); err != nil {
			t.Fatal(err)
		}
		blocks[c] = data
	}
	return blocks
}

func wantAll(t *testing.T, s cas.Source, blocks map[cid.Cid][]byte) {
	t.Helper()
	for c, data := range blocks {
		if got, err := cas.Get(t.Context(), s, c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("block %s: %v", c, err)
		}
	}
}

func packFile(dir string, num int, ext string) string {
	return filepath.Join(dir, fmt.Sprintf("pack-%08d.%s", num, ext))
}

func TestPacksSurviveClosingAndGrow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "the", "way")
	all := map[cid.Cid][]byte{}
	for round := range 4 {
		p, err := pack.Open(dir, pack.Options{MaxPack: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		wantAll(t, p, all)
		for c, data := range fill(t, p, 20*(round+1), 3000) {
			all[c] = data
		}
		wantAll(t, p, all)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, dir, pack.Options{ReadOnly: true})
	wantAll(t, p, all)
	s, err := p.Stats(t.Context())
	if err != nil || s.Blocks != int64(len(all)) || s.Packs < 3 || s.Packs > 5 || s.Bytes < 80*3000 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestASecondWriterIsRefusedAndTheFirstIsNamed(t *testing.T) {
	dir := t.TempDir()
	p, err := pack.Open(dir, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = pack.Open(dir, pack.Options{})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second writer: %v", err)
	}
	r := open(t, dir, pack.Options{ReadOnly: true})
	if err := r.Put(t.Context(), cas.Sum(cid.Raw, nil), nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a reader puts: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, pack.Options{})
}

func TestReadersSeeSyncedBlocksOnly(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, pack.Options{MaxPack: 1 << 20})
	readers := []*pack.Store{open(t, dir, pack.Options{ReadOnly: true})}
	all := map[cid.Cid][]byte{}
	for round := range 10 {
		fresh := map[cid.Cid][]byte{}
		for i := range 5 {
			data := castest.Bytes(byte(i), 60_000+round)
			c := cas.Sum(cid.Raw, data)
			if err := w.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
			fresh[c] = data
		}
		late := open(t, dir, pack.Options{ReadOnly: true})
		if round == 0 { // later rounds seal a pack on the way, which syncs
			for c := range fresh {
				if ok, err := late.Has(t.Context(), c); ok || err != nil {
					t.Errorf("%s is visible before Sync: %v", c, err)
				}
			}
		}
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		for c, data := range fresh {
			all[c] = data
		}
		readers = append(readers, late)
		for _, r := range readers {
			wantAll(t, r, all)
		}
	}
}

func TestOpeningAMissingFolderForReadingFails(t *testing.T) {
	if _, err := pack.Open(filepath.Join(t.TempDir(), "none"), pack.Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{false, true} {
		if _, err := pack.Open(file, pack.Options{ReadOnly: ro}); !errors.Is(err, syscall.ENOTDIR) {
			t.Error(err)
		}
	}
}

// go-car reads every block and the index.
func TestPacksAreCARs(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, pack.Options{})
	want := fill(t, p, 50, 10_000)
	sha, err := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: mh.SHA2_256, MhLength: -1}.Sum([]byte("sha"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Put(t.Context(), sha, []byte("sha")); err != nil {
		t.Fatal(err)
	}
	want[sha] = []byte("sha")
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}

	packed, err := os.ReadFile(packFile(dir, 1, "car"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := car.NewBlockReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	read := map[cid.Cid][]byte{}
	for {
		b, err := r.Next() // checks the hash
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		read[b.Cid()] = b.RawData()
	}
	if len(read) != len(want) {
		t.Errorf("go-car reads %d blocks of %d", len(read), len(want))
	}
	file, err := os.Open(packFile(dir, 1, "idx"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	idx, err := carindex.ReadFrom(file)
	if err != nil {
		t.Fatal(err)
	}
	for c, data := range want {
		if !bytes.Equal(read[c], data) {
			t.Errorf("go-car reads other bytes of %s", c)
		}
		found := false
		err := idx.GetAll(c, func(offset uint64) bool {
			found = bytes.HasPrefix(packed[offset+2:], c.Bytes()) || bytes.HasPrefix(packed[offset+1:], c.Bytes())
			return !found
		})
		if err != nil || !found {
			t.Errorf("go-car does not find %s in the index: %v", c, err)
		}
	}
}

// An index that is truncated while it is open is an error that names the file, unless the whole
// index is in memory.
func TestAnIndexTruncatedUnderAReaderIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name   string
		blocks int
		large  bool
	}{{"small", 500, false}, {"large", 1<<17 + 1, true}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			w := open(t, dir, pack.Options{})
			var want []cid.Cid
			for i := range tt.blocks {
				data := binary.BigEndian.AppendUint64(nil, uint64(i))
				want = append(want, cas.Sum(cid.Raw, data))
				if err := w.Put(t.Context(), want[i], data); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := open(t, dir, pack.Options{ReadOnly: true})
			index := packFile(dir, 1, "idx")
			if err := os.Truncate(index, 0); err != nil {
				t.Fatal(err)
			}
			for _, c := range want[:500] {
				_, err := cas.Get(t.Context(), r, c)
				if tt.large && (!errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), index)) || !tt.large && err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAFullDiskIsAnErrorThatPasses(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("small-disk", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	p := open(t, filepath.Join(dir, "store"), pack.Options{})
	kept := fill(t, p, 10, 1000)
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := putUntilFull(t.Context(), p, kept)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Fatalf("a full disk: %v", err)
	}
	wantAll(t, p, kept) // pending ones too
	r := open(t, filepath.Join(dir, "store"), pack.Options{ReadOnly: true})
	if s, err := r.Stats(t.Context()); err != nil || s.Blocks != 10 {
		t.Errorf("a reader: %+v, %v", s, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal("after space was freed:", err)
	}
	wantAll(t, r, kept)
}

// putUntilFull puts blocks and then syncs; it returns the first error.
func putUntilFull(ctx context.Context, p *pack.Store, kept map[cid.Cid][]byte) error {
	for i := range 24 {
		data := castest.Bytes(byte(100+i), 100_000)
		c := cas.Sum(cid.Raw, data)
		if err := p.Put(ctx, c, data); err != nil {
			return err
		}
		kept[c] = data
	}
	return p.Sync(ctx)
}
