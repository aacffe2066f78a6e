package cas_test

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
)

// seedPack is a pack of a few small blocks, and where they are.
func seedPack() ([]byte, map[cid.Cid]int64) {
	pack, offsets := []byte(cas.PackHeader), map[cid.Cid]int64{}
	for _, text := range []string{"", "a", "bc"} {
		c := cas.Sum(cid.Raw, []byte(text))
		offsets[c] = int64(len(pack))
		pack = binary.AppendUvarint(pack, uint64(36+len(text)))
		pack = append(append(pack, c.Bytes()...), text...)
	}
	return pack, offsets
}

// Whatever is in the folder, opening it does not fail on the bytes, hands out nothing
// wrong, and a writer leaves packs that go-car reads to the end.
func FuzzPackOpen(f *testing.F) {
	pack, offsets := seedPack()
	index := cas.EncodeIndex(offsets, int64(len(pack)))
	f.Add(pack, index)
	f.Add(pack, []byte(nil))
	f.Add(pack[:len(pack)-1], []byte(nil))
	f.Add(append(bytes.Clone(pack), make([]byte, 50)...), index)
	f.Add(pack[:len(pack)-1], index)
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, pack, index []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(packFile(dir, 1, "car"), pack, 0o644); err != nil {
			t.Fatal(err)
		}
		if len(index) > 0 {
			if err := os.WriteFile(packFile(dir, 1, "idx"), cas.FixIndexSum(index), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, ro := range []bool{true, false} {
			p, err := cas.OpenPacks(dir, cas.PackOptions{ReadOnly: ro})
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
		if len(index) == 0 && bytes.HasPrefix(pack, []byte(cas.PackHeader)) {
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
	pack, offsets := seedPack()
	f.Add(cas.EncodeIndex(offsets, int64(len(pack))))
	f.Add(cas.EncodeIndex(nil, 18))
	f.Add([]byte("PHASEIX1"))
	c := cas.Sum(cid.Raw, []byte("a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := cas.FindInIndex(filepath.Join(t.TempDir(), "idx"), cas.FixIndexSum(data), c)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		// go-car is the judge.
		if _, err := carindex.ReadFrom(bytes.NewReader(data)); err != nil {
			t.Fatalf("go-car refuses %x: %v", data, err)
		}
	})
}

func TestAnIndexFindsWhatItLists(t *testing.T) {
	pack, offsets := seedPack()
	for c, offset := range offsets {
		found, err := cas.FindInIndex(filepath.Join(t.TempDir(), "idx"), cas.EncodeIndex(offsets, int64(len(pack))), c)
		if err != nil || len(found) != 1 || found[0] != offset {
			t.Errorf("%s: %v, %v, want %d", c, found, err, offset)
		}
	}
}
