package castest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
)

// Bytes returns n pseudo-random bytes, the same ones for the same seed.
func Bytes(seed byte, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

// RefusedCIDs returns well-formed CIDs that must be refused. With such a CID an attacker could
// choose the bytes, or the hash would be too weak.
func RefusedCIDs(t testing.TB) map[string]cid.Cid {
	t.Helper()
	data := []byte("hello")
	sum := func(codec, code uint64, length int) cid.Cid {
		h, err := mh.Sum(data, code, length)
		if err != nil {
			t.Fatal(err)
		}
		return cid.NewCidV1(codec, h)
	}
	long, err := mh.Encode(make([]byte, 64), mh.BLAKE3)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]cid.Cid{
		"none":           cid.Undef,
		"identity":       sum(cid.Raw, mh.IDENTITY, -1),
		"sha1":           sum(cid.Raw, mh.SHA1, -1),
		"sha2-512":       sum(cid.Raw, mh.SHA2_512, -1),
		"truncated":      sum(cid.Raw, mh.SHA2_256, 16),
		"short blake3":   sum(cid.Raw, mh.BLAKE3, 16),
		"long blake3":    cid.NewCidV1(cid.Raw, long),
		"dag-cbor":       sum(cid.DagCBOR, mh.BLAKE3, 32),
		"CIDv0":          cid.NewCidV0(sum(cid.DagProtobuf, mh.SHA2_256, 32).Hash()),
		"double sha-256": sum(cid.Raw, mh.DBL_SHA2_256, 32),
	}
}

// Run tests that a store does what cas.Store documents. open returns a new empty store; Run
// closes it.
func Run(t *testing.T, open func(t *testing.T) cas.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s cas.Store)
	}{
		{"a block that was never put does not exist", missing},
		{"a block that was put can be read and is listed", putGet},
		{"a block can be put twice", putTwice},
		{"one digest with two codecs is two blocks", twoCodecs},
		{"sha2-256 CIDs are stored too", sha256CID},
		{"other CIDs are refused", refused},
		{"a block over the limit is refused", tooLarge},
		{"put does not use its argument after it returns", argument},
		{"many goroutines can use it at once", concurrent},
		{"a cancelled context ends every call", cancelled},
		{"calls after close fail with fs.ErrClosed", closed},
		{"a file reads back unchanged", file},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			test.run(t, s)
			if err := s.Close(); err != nil {
				t.Error("close:", err)
			}
		})
	}
}

// RunSource tests that a source does what cas.Source documents, and cas.FileSource if it is
// one. open returns a source that has exactly these blocks, and closes it when the test ends.
func RunSource(t *testing.T, open func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source) {
	blocks := make(map[cid.Cid][]byte)
	for i, n := range []int{0, 1, 91, 16347, 65536, 65537, cas.MaxBlock} {
		data := Bytes(byte(i), n)
		blocks[cas.Sum(cid.Raw, data)] = data
	}
	var file bytes.Buffer
	f, err := cas.AddFile(t.Context(), func(_ context.Context, c cid.Cid, data []byte) error {
		blocks[c] = bytes.Clone(data)
		return nil
	}, io.TeeReader(bytes.NewReader(Bytes(9, 3<<20)), &file), cas.DefaultChunker)
	if err != nil {
		t.Fatal(err)
	}
	src := open(t, blocks)
	t.Run("many goroutines can read its blocks at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for c, data := range blocks {
					if got, err := cas.Get(t.Context(), src, c); err != nil || !bytes.Equal(got, data) {
						t.Errorf("block %s: %d bytes, %v", c, len(got), err)
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("the bytes that it returned do not change", func(t *testing.T) {
		kept := make(map[cid.Cid][]byte)
		for c := range blocks {
			kept[c], _ = src.Block(t.Context(), c) // after an error the comparison below fails
		}
		var copied bytes.Buffer
		if err := cas.Copy(t.Context(), &copied, src, f.CID, f.Size); err != nil || !bytes.Equal(copied.Bytes(), file.Bytes()) {
			t.Errorf("the file reads back changed: %v", err)
		}
		for c, data := range kept {
			if !bytes.Equal(data, blocks[c]) {
				t.Errorf("block %s: the bytes have changed", c)
			}
		}
	})
	t.Run("a block that it does not have does not exist", func(t *testing.T) {
		if _, err := src.Block(t.Context(), cas.Sum(cid.Raw, []byte("never"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Block: %v, want fs.ErrNotExist", err)
		}
	})
	t.Run("other CIDs are refused", func(t *testing.T) {
		for name, c := range RefusedCIDs(t) {
			if _, err := cas.Get(t.Context(), src, c); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s: %v, want ErrCorrupt", name, err)
			}
		}
	})
	t.Run("a block is appended to the caller's buffer", func(t *testing.T) {
		var room []byte // grows once, and is used again
		for c, data := range blocks {
			for _, size := range []int{-1, 0, len(data), len(data) + 1} {
				got, err := cas.Append(t.Context(), src, c, size, append(room[:0], "before"...))
				if err != nil || string(got) != "before"+string(data) {
					t.Fatalf("block %s, expected size %d: %d bytes, %v", c, size, len(got), err)
				}
				room = got
			}
		}
		if got, err := cas.Append(t.Context(), src, cas.Sum(cid.Raw, []byte("never")), 5, []byte("before")); !errors.Is(err, fs.ErrNotExist) || string(got) != "before" {
			t.Errorf("a missing block: %q, %v", got, err)
		}
	})
	t.Run("a section is read from its file", func(t *testing.T) {
		files, ok := src.(cas.FileSource)
		if !ok {
			return
		}
		for c, data := range blocks {
			f, offset, err := files.OpenBlock(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			l := cas.Leaf{CID: c, Size: int64(len(data))}
			got, err := cas.ReadSection(f, offset, l, []byte("before"))
			if err != nil || !bytes.HasPrefix(got, []byte("before")) || !bytes.HasSuffix(got, append(c.Bytes(), data...)) {
				t.Errorf("block %s: %d bytes, %v", c, len(got), err)
			}
			for what, l := range map[string]cas.Leaf{
				"another size":  {CID: c, Size: int64(len(data)) + 1},
				"another block": {CID: cas.Sum(cid.Raw, []byte("never")), Size: int64(len(data))},
			} {
				if got, err := cas.ReadSection(f, offset, l, nil); err == nil || len(got) > 0 {
					t.Errorf("block %s: %s is read: %v", c, what, err)
				}
			}
			f.Close()
		}
	})
	t.Run("a cancelled call ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := src.Block(ctx, f.CID); !errors.Is(err, context.Canceled) {
			t.Errorf("Block: %v, want context.Canceled", err)
		}
	})
}

func missing(t *testing.T, s cas.Store) {
	c := cas.Sum(cid.Raw, []byte("never"))
	wantMissing(t, s, c)
}

func wantMissing(t *testing.T, s cas.Store, c cid.Cid) {
	t.Helper()
	if _, err := s.Block(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Block: %v, want fs.ErrNotExist", err)
	}
	if ok, err := s.Has(t.Context(), c); ok || err != nil {
		t.Errorf("Has: %v, %v", ok, err)
	}
}

func put(t *testing.T, s cas.Store, codec uint64, data []byte) cid.Cid {
	t.Helper()
	c := cas.Sum(codec, data)
	if err := s.Put(t.Context(), c, data); err != nil {
		t.Fatal("put:", err)
	}
	return c
}

func wantBlock(t *testing.T, s cas.Store, c cid.Cid, data []byte) {
	t.Helper()
	got, err := cas.Get(t.Context(), s, c)
	if err != nil {
		t.Error("get:", err)
	} else if !bytes.Equal(got, data) {
		t.Errorf("get: %d other bytes than the %d that were put", len(got), len(data))
	}
	if ok, err := s.Has(t.Context(), c); !ok || err != nil {
		t.Errorf("Has: %v, %v", ok, err)
	}
}

func putGet(t *testing.T, s cas.Store) {
	blocks := map[cid.Cid][]byte{}
	for i, n := range []int{0, 1, 91, 92, 93, 16347, 16348, 16349, cas.MaxBlock} {
		data := Bytes(byte(i), n)
		blocks[put(t, s, cid.Raw, data)] = data
	}
	for range 2 { // before and after Sync
		for c, data := range blocks {
			wantBlock(t, s, c, data)
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal("sync:", err)
		}
	}
	wantMissing(t, s, cas.Sum(cid.Raw, []byte("another")))
}

func putTwice(t *testing.T, s cas.Store) {
	data := Bytes(1, 1000)
	c := put(t, s, cid.Raw, data)
	put(t, s, cid.Raw, data)
	wantBlock(t, s, c, data)
}

func twoCodecs(t *testing.T, s cas.Store) {
	data := []byte("a leaf or a node")
	raw, node := cas.Sum(cid.Raw, data), cas.Sum(cid.DagProtobuf, data)
	put(t, s, cid.Raw, data)
	wantBlock(t, s, raw, data)
	wantMissing(t, s, node)
	put(t, s, cid.DagProtobuf, data)
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal("sync:", err)
	}
	wantBlock(t, s, raw, data)
	wantBlock(t, s, node, data)
}

func sha256CID(t *testing.T, s cas.Store) {
	data := []byte("added by another program")
	h, err := mh.Sum(data, mh.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	c := cid.NewCidV1(cid.Raw, h)
	if err := s.Put(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	put(t, s, cid.Raw, data)
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal("sync:", err)
	}
	wantBlock(t, s, c, data)
}

func refused(t *testing.T, s cas.Store) {
	for name, c := range RefusedCIDs(t) {
		if err := s.Put(t.Context(), c, []byte("hello")); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: Put: %v, want ErrCorrupt", name, err)
		}
		if _, err := s.Block(t.Context(), c); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: Block: %v, want ErrCorrupt", name, err)
		}
		if _, err := s.Has(t.Context(), c); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: Has: %v, want ErrCorrupt", name, err)
		}
	}
}

func tooLarge(t *testing.T, s cas.Store) {
	data := make([]byte, cas.MaxBlock+1)
	c := cas.Sum(cid.Raw, data)
	if err := s.Put(t.Context(), c, data); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("Put: %v, want ErrCorrupt", err)
	}
	wantMissing(t, s, c)
}

func argument(t *testing.T, s cas.Store) {
	data := Bytes(3, 5000)
	c := put(t, s, cid.Raw, data)
	clear(data)
	wantBlock(t, s, c, Bytes(3, 5000))
}

func concurrent(t *testing.T, s cas.Store) {
	var wg sync.WaitGroup
	for worker := range byte(4) {
		wg.Go(func() {
			for i := range byte(50) {
				data := Bytes(i, 1000+int(i)) // every worker puts the same blocks
				c := cas.Sum(cid.Raw, data)
				if err := s.Put(t.Context(), c, data); err != nil {
					t.Error("put:", err)
				}
				wantBlock(t, s, c, data)
				if i%16 == worker {
					if err := s.Sync(t.Context()); err != nil {
						t.Error("sync:", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func cancelled(t *testing.T, s cas.Store) {
	data := []byte("too late")
	c := put(t, s, cid.Raw, data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(ctx, s, c, data) {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
	wantBlock(t, s, c, data)
}

func closed(t *testing.T, s cas.Store) {
	data := []byte("kept")
	c := put(t, s, cid.Raw, data)
	if err := s.Close(); err != nil {
		t.Fatal("close:", err)
	}
	for name, call := range calls(t.Context(), s, c, data) {
		if err := call(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v, want fs.ErrClosed", name, err)
		}
	}
}

func calls(ctx context.Context, s cas.Store, c cid.Cid, data []byte) map[string]func() error {
	return map[string]func() error{
		"Block": func() error { _, err := s.Block(ctx, c); return err },
		"Has":   func() error { _, err := s.Has(ctx, c); return err },
		"Put":   func() error { return s.Put(ctx, c, data) },
		"Sync":  func() error { return s.Sync(ctx) },
	}
}

func file(t *testing.T, s cas.Store) {
	data := Bytes(9, 3<<20)
	f, err := cas.AddFile(t.Context(), s.Put, bytes.NewReader(data), cas.DefaultChunker)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal("sync:", err)
	}
	var got bytes.Buffer
	if err := cas.Copy(t.Context(), &got, s, f.CID, f.Size); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Error("the file reads back changed")
	}
}
