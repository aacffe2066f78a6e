package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// Whichever part of the unsynced tail reaches the disk, the synced blocks are in the store, and
// the next writer makes the pack complete.
func TestATornTailIsCutOff(t *testing.T) {
	master := t.TempDir()
	w, err := pack.Open(master, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	synced := fill(t, w, 5, 40)
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(packFile(master, 1, "idx"))
	if err != nil {
		t.Fatal(err)
	}
	short, err := os.Stat(packFile(master, 1, "car"))
	if err != nil {
		t.Fatal(err)
	}
	late := castest.Bytes(99, 20)
	lateCID := cas.Sum(cid.Raw, late)
	if err := w.Put(t.Context(), lateCID, late); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(packFile(master, 1, "car"))
	if err != nil {
		t.Fatal(err)
	}
	from := int(short.Size())
	for cut := from; cut <= len(packed); cut++ {
		for _, damage := range []string{"short", "zeros", "no index", "torn index"} {
			dir := t.TempDir()
			tail := bytes.Clone(packed[:cut])
			idx := index
			switch damage {
			case "zeros": // the length was written, the data was not
				tail = append(tail, make([]byte, len(packed)-cut)...)
			case "no index":
				idx = nil
			case "torn index":
				idx = idx[:min(len(idx), cut-from)]
			}
			if err := os.WriteFile(packFile(dir, 1, "car"), tail, 0o644); err != nil {
				t.Fatal(err)
			}
			if idx != nil {
				if err := os.WriteFile(packFile(dir, 1, "idx"), idx, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			wantAll(t, open(t, dir, pack.Options{ReadOnly: true}), synced)
			var log bytes.Buffer
			p := open(t, dir, pack.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			wantAll(t, p, synced)
			has, err := p.Has(t.Context(), lateCID)
			if err != nil || has != (cut == len(packed)) {
				t.Fatalf("cut at %d of %d, %s: the last block is listed: %v, %v", cut, len(packed), damage, has, err)
			}
			torn := len(tail) > from && cut < len(packed)
			if said := strings.Contains(log.String(), "torn tail removed"); said != torn {
				t.Fatalf("cut at %d, %s: the log says %q", cut, damage, log.String())
			}
			if err := p.Put(t.Context(), lateCID, late); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(packFile(dir, 1, "car")); err != nil || !bytes.Equal(got, packed) {
				t.Fatalf("cut at %d, %s: the pack is not complete: %v", cut, damage, err)
			}
		}
	}
}

func TestAnIndexThatIsMissingOrDamagedIsRebuilt(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(path string, idx []byte) error
	}{
		{"missing", func(path string, _ []byte) error { return os.Remove(path) }},
		{"empty", func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o644) }},
		{"a folder", func(path string, _ []byte) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }},
		{"half", func(path string, idx []byte) error { return os.WriteFile(path, idx[:len(idx)/2], 0o644) }},
		{"a bit", func(path string, idx []byte) error { idx[len(idx)/2] ^= 1; return os.WriteFile(path, idx, 0o644) }},
		{"another pack's", func(path string, _ []byte) error {
			idx, err := os.ReadFile(strings.Replace(path, "00000001", "00000002", 1))
			return errors.Join(err, os.WriteFile(path, idx, 0o644))
		}},
	} {
		for _, num := range []int{1, 2} { // sealed, open
			t.Run(fmt.Sprintf("%s %d", damage.name, num), func(t *testing.T) {
				dir := t.TempDir()
				w, err := pack.Open(dir, pack.Options{MaxPack: 20_000})
				if err != nil {
					t.Fatal(err)
				}
				want := fill(t, w, 30, 1000)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				path := packFile(dir, num, "idx")
				idx, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage.do(path, bytes.Clone(idx)); err != nil {
					t.Fatal(err)
				}
				r := open(t, dir, pack.Options{ReadOnly: true, MaxPack: 20_000})
				if damage.name != "another pack's" {
					wantAll(t, r, want)
				}
				opts, log := logged(pack.Options{MaxPack: 20_000})
				p, err := pack.Open(dir, opts)
				if damage.name == "a folder" {
					if err != nil || !strings.Contains(log.String(), "is a folder") {
						t.Fatalf("a folder with the name of an index: %v, %s", err, log)
					}
					wantAll(t, p, want)
					if err := p.Close(); err != nil {
						t.Error(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for c, data := range want {
					// The index of another pack can be valid for this one: then the blocks are put again.
					if err := p.Put(t.Context(), c, data); err != nil {
						t.Fatal(err)
					}
				}
				wantAll(t, p, want)
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				wantAll(t, r, want)
				if got, err := os.ReadFile(path); damage.name != "another pack's" && (err != nil || !bytes.Equal(got, idx)) {
					t.Errorf("the rebuilt index differs: %v", err)
				}
			})
		}
	}
}

func TestDamageOfAPackDoesNotAffectOtherBlocks(t *testing.T) {
	for name, damage := range map[string]func(packed []byte) []byte{
		"a bit of data":   func(b []byte) []byte { b[2000] ^= 1; return b },
		"header":          func(b []byte) []byte { b[3] ^= 1; return b },
		"half of it gone": func(b []byte) []byte { return b[:len(b)/2] },
		"all of it gone":  func([]byte) []byte { return nil },
		"zeros":           func(b []byte) []byte { clear(b); return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := pack.Open(dir, pack.Options{MaxPack: 20_000})
			if err != nil {
				t.Fatal(err)
			}
			want := fill(t, w, 40, 1000)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for _, num := range []int{1, 3} {
				packed, err := os.ReadFile(packFile(dir, num, "car"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(packFile(dir, num, "car"), damage(packed), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, ro := range []bool{true, false} {
				p := open(t, dir, pack.Options{ReadOnly: ro, MaxPack: 20_000})
				kept := 0
				for c := range want {
					_, err := cas.Get(t.Context(), p, c)
					if err == nil {
						kept++
					} else if !errors.Is(err, cas.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
				if kept < 18 {
					t.Errorf("read-only %v: %d of 40 blocks are left", ro, kept)
				}
				if !ro {
					fill(t, p, 40, 3000)
				}
			}
		})
	}
}
