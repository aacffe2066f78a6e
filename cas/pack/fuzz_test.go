package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	carindex "github.com/ipld/go-car/v2/index"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// seedPack returns a pack of a few small blocks and the offsets of their sections.
func seedPack() ([]byte, map[cid.Cid]int64) {
	packed, offsets := []byte(pack.PackHeader), map[cid.Cid]int64{}
	for _, text := range []string{"", "a", "bc"} {
		c := cas.Sum(cid.Raw, []byte(text))
		offsets[c] = int64(len(packed))
		packed = binary.AppendUvarint(packed, uint64(36+len(text)))
		packed = append(append(packed, c.Bytes()...), text...)
	}
	return packed, offsets
}

// Whatever bytes the files have: the store opens, Get returns no wrong block, and go-car reads
// the packs of a writer to the end.
func FuzzPackOpen(f *testing.F) {
	packed, offsets := seedPack()
	index := pack.EncodeIndex(offsets, int64(len(packed)))
	f.Add(packed, index)
	f.Add(packed, []byte(nil))
	f.Add(packed[:len(packed)-1], []byte(nil))
	f.Add(append(bytes.Clone(packed), make([]byte, 50)...), index)
	f.Add(packed[:len(packed)-1], index)
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, packed, index []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(packFile(dir, 1, "car"), packed, 0o644); err != nil {
			t.Fatal(err)
		}
		if len(index) > 0 {
			if err := os.WriteFile(packFile(dir, 1, "idx"), pack.FixIndexSum(index), 0o644); err != nil {
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
			if !ro {
				fill(t, p, 2, 10)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(index) == 0 && bytes.HasPrefix(packed, []byte(pack.PackHeader)) {
			readToEnd(t, packFile(dir, 1, "car"))
		}
	})
}

func isAbsentOrCorrupt(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt)
}

func readToEnd(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := car.NewBlockReader(file, car.WithTrustedCAR(true))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		t.Fatal("go-car:", err)
	}
}

func FuzzIndexOpen(f *testing.F) {
	packed, offsets := seedPack()
	f.Add(pack.EncodeIndex(offsets, int64(len(packed))))
	f.Add(pack.EncodeIndex(nil, 18))
	f.Add([]byte("PHASEIX1"))
	c := cas.Sum(cid.Raw, []byte("a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := pack.FindInIndex(filepath.Join(t.TempDir(), "idx"), pack.FixIndexSum(data), c)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		// An accepted index is one that go-car accepts too.
		if _, err := carindex.ReadFrom(bytes.NewReader(data)); err != nil {
			t.Fatalf("go-car refuses %x: %v", data, err)
		}
	})
}

func TestAnIndexFindsWhatItLists(t *testing.T) {
	packed, offsets := seedPack()
	for c, offset := range offsets {
		found, err := pack.FindInIndex(filepath.Join(t.TempDir(), "idx"), pack.EncodeIndex(offsets, int64(len(packed))), c)
		if err != nil || len(found) != 1 || found[0] != offset {
			t.Errorf("%s: %v, %v, want %d", c, found, err, offset)
		}
	}
}
