package cas_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestAReaderReadsFromAnyOffset(t *testing.T) {
	for _, chunker := range []string{cas.DefaultChunker, "size-1000"} {
		for _, n := range []int{0, 1, 1000, 1001, 175_001, 3 << 20} {
			data, store := castest.Bytes(7, n), cas.NewMemory()
			f, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(data), chunker)
			if err != nil {
				t.Fatal(err)
			}
			r := cas.NewReader(t.Context(), store, f.CID, f.Size)
			if n < 200_000 {
				if err := iotest.TestReader(r, data); err != nil {
					t.Errorf("%s, %d bytes: %v", chunker, n, err)
				}
			}
			for _, at := range []int{0, n / 2, n - 1, n / 3, 0} { // forwards and backwards
				at = max(at, 0)
				if _, err := r.Seek(int64(at), io.SeekStart); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(io.LimitReader(r, 150_000))
				if want := data[at:min(at+150_000, n)]; err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %d bytes, from %d: %d bytes, %v", chunker, n, at, len(got), err)
				}
			}
		}
	}
}

// A stream reads each block once.
func TestAReaderReadsEachBlockOnce(t *testing.T) {
	var src blocks
	f, err := cas.AddFile(t.Context(), func(_ context.Context, c cid.Cid, data []byte) error {
		src.put(c.Prefix().Codec, bytes.Clone(data))
		return nil
	}, bytes.NewReader(castest.Bytes(7, 3<<20)), "size-1000")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, cas.NewReader(t.Context(), &src, f.CID, f.Size)); err != nil || n != f.Size || src.reads.Load() != int64(len(src.m)) {
		t.Errorf("%d bytes, %v, %d reads of %d blocks", n, err, src.reads.Load(), len(src.m))
	}
}
