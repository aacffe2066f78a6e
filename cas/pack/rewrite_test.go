package pack_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// A rewritten block is undamaged for open readers and for later ones, in a merged, a sealed and
// the open pack, and its neighbours do not change.
func TestRewriteReplacesADamagedBlockInPlace(t *testing.T) {
	dir := t.TempDir()
	opts := pack.Options{MaxPack: 20_000}
	w := open(t, dir, opts)
	want := fill(t, w, 120, 1000)
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		path := dir + "/" + e.Name()
		packed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(packed, []byte("\x11\xa2\x65roots")) {
			packed[500] ^= 1 // of data
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(packed[500:501], 500)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	damaged := 0
	for c, data := range want {
		if _, err := cas.Get(t.Context(), w, c); errors.Is(err, cas.ErrCorrupt) {
			damaged++
			if err := w.Rewrite(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if damaged < 5 {
		t.Fatalf("%d blocks were damaged", damaged)
	}
	wantAll(t, w, want)
	r := open(t, dir, pack.Options{ReadOnly: true})
	wantAll(t, r, want)
	for c, data := range want {
		if err := r.Rewrite(t.Context(), c, data); !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("a reader writes: %v", err)
		}
	}
}
