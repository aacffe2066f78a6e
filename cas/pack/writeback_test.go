package pack

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

func TestWritebackStartsForEach16MiBOfWholePages(t *testing.T) {
	const page = 4096
	for _, tt := range []struct {
		name          string
		lazy, busy    bool
		from, flushed int64
		want          int64 // to here it was started
	}{
		{"few bytes", false, false, 0, writebackAt - 1, 0},
		{"16 MiB", false, false, 0, writebackAt, writebackAt},
		{"16 MiB and the beginning of a page", false, false, 0, writebackAt + page - 1, writebackAt},
		{"few bytes after a writeback", false, false, writebackAt, 2*writebackAt - 1, writebackAt},
		{"16 MiB after a writeback", false, false, writebackAt, 2*writebackAt + page, 2*writebackAt + page},
		{"the disk is busy", false, true, 0, 2 * writebackAt, 0},
		{"a Lazy writer", true, false, 0, 2 * writebackAt, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, err := os.Create(filepath.Join(t.TempDir(), "pack"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				s := &Store{opts: Options{Lazy: tt.lazy}}
				s.w.busy.Store(tt.busy)
				k := &pack{file: &packFile{f: f}, writeback: tt.from, flushed: tt.flushed}
				s.writeBack(k)
				synctest.Wait()
				if k.writeback != tt.want {
					t.Errorf("started to %d, want %d", k.writeback, tt.want)
				}
				if s.w.busy.Load() != tt.busy {
					t.Errorf("busy is %t afterwards, want %t", !tt.busy, tt.busy)
				}
			})
		})
	}
}

func TestPutStartsTheWriteback(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range byte(18) {
		data := make([]byte, cas.MaxBlock)
		data[0] = i
		if err := s.Put(t.Context(), cas.Sum(cid.Raw, data), data); err != nil {
			t.Fatal(err)
		}
	}
	if done := s.w.open.writeback; done < writebackAt {
		t.Errorf("after 18 MiB the writeback was started to %d", done)
	}
}
