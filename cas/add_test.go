package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	chunk "github.com/ipfs/boxo/chunker"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

var (
	base36    = multibase.MustNewEncoder(multibase.Base36)
	blake3Pre = cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: mh.BLAKE3, MhLength: -1}
)

// boxoRoot returns the root of a file from boxo's importer, which Kubo uses.
func boxoRoot(t *testing.T, spl chunk.Splitter, links int) cid.Cid {
	t.Helper()
	params := helpers.DagBuilderParams{Dagserv: mdtest.Mock(), Maxlinks: links, RawLeaves: true, CidBuilder: blake3Pre}
	h, err := params.New(spl)
	if err != nil {
		t.Fatal(err)
	}
	root, err := balanced.Layout(h)
	if err != nil {
		t.Fatal(err)
	}
	return root.Cid()
}

func TestRootsAreThoseOfKubo(t *testing.T) {
	data := castest.Bytes(5, 50<<20)
	for _, want := range readGoldenChunks(t).Kubo {
		got, err := cas.FileCID(t.Context(), bytes.NewReader(data[:want.Size]), want.Chunker)
		if err != nil || got.CID.String() != want.Root {
			t.Errorf("%s, %d bytes: %s, %v, want %s", want.Chunker, want.Size, got.CID, err, want.Root)
		}
	}
}

func TestRootsAreThoseOfBoxo(t *testing.T) {
	data := castest.Bytes(4, 174*174*10+2*1740)
	sizes := []int{1, 10, 1000, 262144}
	if testing.Short() {
		sizes = sizes[1:] // the first makes ten times as many leaves as the second
	}
	for _, size := range sizes {
		for _, n := range []int{
			0, 1, size - 1, size, size + 1, 2 * size, 173 * size, 174 * size, 174*size + 1, 175 * size,
			174*174*size - 1, 174 * 174 * size, 174*174*size + 1, 174*174*size + 174*size, len(data),
		} {
			if n < 0 || n > len(data) {
				continue
			}
			got, err := cas.FileCID(t.Context(), bytes.NewReader(data[:n]), fmt.Sprintf("size-%d", size))
			if err != nil {
				t.Fatal(err)
			}
			want := boxoRoot(t, chunk.NewSizeSplitter(bytes.NewReader(data[:n]), int64(size)), 174)
			if got.CID != want || got.Size != int64(n) {
				t.Errorf("size-%d, %d bytes: %v, boxo gives %s", size, n, got, want)
			}
		}
	}
}

// cuts is a splitter that returns leaves that were cut before.
type cuts struct{ leaves [][]byte }

func (c *cuts) Reader() io.Reader { return nil }
func (c *cuts) NextBytes() ([]byte, error) {
	if len(c.leaves) == 0 {
		return nil, io.EOF
	}
	leaf := c.leaves[0]
	c.leaves = c.leaves[1:]
	return leaf, nil
}

func TestContentDefinedFilesAreBalancedDAGsOf1024Links(t *testing.T) {
	const chunker = "fastcdc-v1.0.0-64-128-256"
	for _, n := range []int{200, 100_000, 1 << 20} {
		var spl cuts
		f, err := cas.AddFile(t.Context(), func(_ context.Context, c cid.Cid, data []byte) error {
			if c.Type() == cid.Raw {
				spl.leaves = append(spl.leaves, bytes.Clone(data))
			}
			return nil
		}, bytes.NewReader(castest.Bytes(5, n)), chunker)
		if err != nil {
			t.Fatal(err)
		}
		leaves := len(spl.leaves)
		if want := boxoRoot(t, &spl, 1024); f.CID != want {
			t.Errorf("%d leaves: %s, boxo gives %s", leaves, f.CID, want)
		}
	}
}

func TestBlocksComeLeavesFirstRootLast(t *testing.T) {
	var order []cid.Cid
	f, err := cas.AddFile(t.Context(), func(_ context.Context, c cid.Cid, data []byte) error {
		order = append(order, c)
		return cas.Check(c, data)
	}, bytes.NewReader(castest.Bytes(6, 200_000)), "size-100")
	if err != nil {
		t.Fatal(err)
	}
	nodes := 0
	for _, c := range order {
		if c.Type() == cid.DagProtobuf {
			nodes++
		} else if nodes > 0 {
			t.Fatal("a leaf comes after a node")
		}
	}
	if want := 2000 + 12 + 1; len(order) != want || order[len(order)-1] != f.CID {
		t.Errorf("%d blocks, want %d; the last is %s, the root %s", len(order), want, order[len(order)-1], f.CID)
	}
}

func TestAddFileEndsWithTheFirstFailedPut(t *testing.T) {
	full := errors.New("disk full")
	for _, failAt := range []int{0, 1, 50, 100, 101} {
		calls := 0
		_, err := cas.AddFile(t.Context(), func(context.Context, cid.Cid, []byte) error {
			calls++
			if calls > failAt {
				return full
			}
			return nil
		}, bytes.NewReader(make([]byte, 101<<18)), "size-262144")
		if !errors.Is(err, full) || calls != failAt+1 {
			t.Errorf("put %d fails: %v after %d calls", failAt, err, calls)
		}
	}
}

func TestAddFileCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := cas.AddFile(ctx, func(context.Context, cid.Cid, []byte) error { cancel(); return nil }, endless{}, cas.DefaultChunker)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// endless is a reader that never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
