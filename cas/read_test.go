package cas_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	chunk "github.com/ipfs/boxo/chunker"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

// blocks is a source in memory that counts reads. It does not check what is put.
type blocks struct {
	m     map[cid.Cid][]byte
	reads atomic.Int64
}

func (b *blocks) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	b.reads.Add(1)
	data, ok := b.m[c]
	if !ok {
		return nil, cas.NotFound(c)
	}
	return data, nil
}

func (b *blocks) put(codec uint64, data []byte) cid.Cid {
	if b.m == nil {
		b.m = make(map[cid.Cid][]byte)
	}
	c := cas.Sum(codec, data)
	b.m[c] = data
	return c
}

func (b *blocks) node(n cas.TestNode) cid.Cid { return b.put(cid.DagProtobuf, n.Encode()) }

// fileNode is an inner node over children of the given sizes.
func fileNode(total uint64, children []cid.Cid, sizes []uint64) cas.TestNode {
	n := cas.TestNode{Kind: 2, Size: total, Blocks: sizes}
	for _, c := range children {
		n.Links = append(n.Links, cas.TestLink{CID: c})
	}
	return n
}

func repeat[T any](v T, n int) []T {
	s := make([]T, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func TestFilesReadBackUnchanged(t *testing.T) {
	for _, chunker := range []string{cas.DefaultChunker, "jc-v1.0.0-4096-16384-65536", "size-1000", "size-1048576"} {
		for _, n := range []int{0, 1, 999, 1000, 1001, 174_000, 175_001, 3 << 20} {
			data, store := castest.Bytes(7, n), cas.NewMemory()
			f, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(data), chunker)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := cas.Copy(t.Context(), &got, store, f.CID, f.Size); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%s, %d bytes: Copy: %v", chunker, n, err)
			}
			if whole, err := cas.ReadFile(t.Context(), store, f.CID, int64(n)); err != nil || !bytes.Equal(whole, data) {
				t.Errorf("%s, %d bytes: ReadFile: %v", chunker, n, err)
			}
			if _, err := cas.ReadFile(t.Context(), store, f.CID, int64(n)-1); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s, %d bytes: ReadFile with a lower limit: %v", chunker, n, err)
			}
			leaves, err := cas.Leaves(t.Context(), store, f.CID, f.Size)
			if err != nil {
				t.Fatal(err)
			}
			at := int64(0)
			for _, l := range leaves {
				leaf, err := cas.ReadLeafInto(t.Context(), store, l, new([]byte))
				if err != nil || l.Offset != at || !bytes.Equal(leaf, data[at:at+l.Size]) {
					t.Fatalf("%s, %d bytes: leaf %+v at %d: %v", chunker, n, l, at, err)
				}
				at += l.Size
			}
			for _, wrong := range []int64{f.Size - 1, f.Size + 1, -1, 1 << 40} {
				err := cas.Copy(t.Context(), io.Discard, store, f.CID, wrong)
				if !errors.Is(err, cas.ErrCorrupt) {
					t.Errorf("%s, %d bytes: Copy of %d: %v, want ErrCorrupt", chunker, n, wrong, err)
				}
			}
		}
	}
}

// dagService is a source of the blocks that boxo's importer wrote.
type dagService struct{ format.DAGService }

func (d dagService) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	n, err := d.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	return n.RawData(), nil
}

func TestFilesOfBoxoAreRead(t *testing.T) {
	data := castest.Bytes(8, 1<<20)
	for _, links := range []int{2, 174, 1024} {
		serv := mdtest.Mock()
		params := helpers.DagBuilderParams{
			Dagserv: serv, Maxlinks: links, RawLeaves: true,
			CidBuilder: cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: mh.SHA2_256, MhLength: -1},
		}
		size := int64(1000)
		if links == 2 {
			size = 10_000 // 105 leaves are 7 levels of nodes
		}
		h, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(data), size))
		if err != nil {
			t.Fatal(err)
		}
		root, err := balanced.Layout(h)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		err = cas.Copy(t.Context(), &got, dagService{serv}, root.Cid(), int64(len(data)))
		if err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d links: %v", links, err)
		}
	}
}

func TestHostileFilesAreRefused(t *testing.T) {
	var src blocks
	leaf := src.put(cid.Raw, []byte("x"))
	good := fileNode(3, repeat(leaf, 3), []uint64{1, 1, 1})
	change := func(f func(n *cas.TestNode)) cid.Cid {
		n := good
		n.Links, n.Blocks = append([]cas.TestLink(nil), good.Links...), append([]uint64(nil), good.Blocks...)
		f(&n)
		return src.node(n)
	}
	deep := func(levels int) cid.Cid {
		c := leaf
		for range levels {
			c = src.node(fileNode(1, []cid.Cid{c}, []uint64{1}))
		}
		return c
	}
	if err := cas.Copy(t.Context(), io.Discard, &src, src.node(good), 3); err != nil {
		t.Fatal("the valid file:", err)
	}
	if err := cas.Copy(t.Context(), io.Discard, &src, deep(cas.MaxDepth), 1); err != nil {
		t.Fatal("the deepest file:", err)
	}
	tests := map[string]struct {
		root cid.Cid
		size int64
	}{
		"a size that differs from the signed one": {change(func(n *cas.TestNode) { n.Size = 4 }), 3},
		"children that exceed the size":           {change(func(n *cas.TestNode) { n.Blocks[2] = 2 }), 3},
		"children that miss bytes":                {change(func(n *cas.TestNode) { n.Size = 4 }), 4},
		"sizes that wrap around": {change(func(n *cas.TestNode) {
			n.Blocks = []uint64{1 << 63, 1 << 63, 3}
		}), 3},
		"a zero-sized link":                 {change(func(n *cas.TestNode) { n.Blocks = []uint64{3, 0, 0} }), 3},
		"more links than sizes":             {change(func(n *cas.TestNode) { n.Blocks = []uint64{1, 2} }), 3},
		"more sizes than links":             {change(func(n *cas.TestNode) { n.Links = n.Links[:2] }), 3},
		"a named link":                      {change(func(n *cas.TestNode) { n.Links[0].Name = "a" }), 3},
		"a folder":                          {change(func(n *cas.TestNode) { n.Kind = 1 }), 3},
		"UnixFS raw":                        {change(func(n *cas.TestNode) { n.Kind = 0 }), 3},
		"a symlink":                         {change(func(n *cas.TestNode) { n.Kind = 4 }), 3},
		"a HAMT":                            {change(func(n *cas.TestNode) { n.Kind = 5 }), 3},
		"no links":                          {src.node(fileNode(0, nil, nil)), 0},
		"links missing":                     {src.node(fileNode(3, nil, nil)), 3},
		"a leaf shorter than its node says": {src.node(fileNode(2, []cid.Cid{leaf}, []uint64{2})), 2},
		"a leaf longer than its node says":  {src.node(fileNode(1, []cid.Cid{src.put(cid.Raw, []byte("xy"))}, []uint64{1})), 1},
		"a leaf over the block limit":       {src.node(fileNode(1<<21, []cid.Cid{leaf}, []uint64{1 << 21})), 1 << 21},
		"too deep":                          {deep(cas.MaxDepth + 1), 1},
		"too wide":                          {src.node(fileNode(1025, repeat(leaf, 1025), repeat(uint64(1), 1025))), 1025},
		"a block that is no node":           {src.put(cid.DagProtobuf, []byte("not protobuf")), 3},
		"an empty node":                     {src.put(cid.DagProtobuf, nil), 0},
		"a node of another form":            {src.put(cid.DagProtobuf, append(good.Encode(), 0x1a, 0)), 3},
		"data before the links":             {src.put(cid.DagProtobuf, dataFirst(good.Encode())), 3},
		"a raw root of another length":      {leaf, 2},
		"a raw root over the block limit":   {leaf, 1 << 21},
	}
	for name, c := range castest.RefusedCIDs(t) {
		tests["root "+name] = struct {
			root cid.Cid
			size int64
		}{c, 5}
		if c.Defined() {
			inner := src.node(fileNode(5, []cid.Cid{c}, []uint64{5}))
			tests["inner link "+name] = struct {
				root cid.Cid
				size int64
			}{src.node(fileNode(10, []cid.Cid{inner, inner}, []uint64{5, 5})), 10}
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := cas.Copy(t.Context(), &out, &src, test.root, test.size); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("Copy: %v, want ErrCorrupt", err)
			}
			if int64(out.Len()) > test.size {
				t.Errorf("Copy wrote %d bytes of %d", out.Len(), test.size)
			}
			out.Reset()
			if _, err := io.Copy(&out, cas.NewReader(t.Context(), &src, test.root, test.size)); !errors.Is(err, cas.ErrCorrupt) || int64(out.Len()) > test.size {
				t.Errorf("Reader: %v after %d bytes, want ErrCorrupt", err, out.Len())
			}
			if _, err := cas.ReadFile(t.Context(), &src, test.root, test.size); !errors.Is(err, cas.ErrCorrupt) &&
				!strings.HasPrefix(name, "a raw root") && name != "a size that differs from the signed one" && name != "a leaf longer than its node says" {
				t.Errorf("ReadFile: %v, want ErrCorrupt", err)
			}
		})
	}
}

// dataFirst moves the data field, the last one, before the links.
func dataFirst(node []byte) []byte {
	i := bytes.LastIndex(node, []byte("\x0a\x0a\x08\x02"))
	return append(append([]byte(nil), node[i:]...), node[:i]...)
}

// A few blocks that repeat each other are a file of 2^70 bytes, or of 2^50 leaves. Reading
// such a file counts each visit, and ends at the signed size or at MaxLeaves.
func TestDAGBombsCostNoMoreThanTheSignedSize(t *testing.T) {
	var src blocks
	bomb := func(leafSize, width uint64) (cid.Cid, uint64) {
		c, size := src.put(cid.Raw, make([]byte, leafSize)), leafSize
		for range cas.MaxDepth {
			if size > 1<<63/width {
				break
			}
			c, size = src.node(fileNode(size*width, repeat(c, int(width)), repeat(size, int(width)))), size*width
		}
		return c, size
	}
	for _, test := range []struct {
		name        string
		leaf, width uint64
	}{{"wide", 1, 128}, {"large", cas.MaxBlock, 32}} {
		root, size := bomb(test.leaf, test.width)
		src.reads.Store(0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := cas.ReadFile(t.Context(), &src, root, 100)
		if !errors.Is(err, cas.ErrCorrupt) || src.reads.Load() > 1 {
			t.Errorf("%s: ReadFile: %v after %d reads", test.name, err, src.reads.Load())
		}
		for _, claim := range []int64{100, int64(min(size, 1<<62))} {
			if _, err = cas.Leaves(t.Context(), &src, root, claim); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s: Leaves: %v", test.name, err)
			}
		}
		runtime.ReadMemStats(&after)
		t.Logf("%s: %d reads, %v, %d MiB allocated in all", test.name, src.reads.Load(), time.Since(start), (after.TotalAlloc-before.TotalAlloc)>>20)
		if src.reads.Load() > cas.MaxLeaves {
			t.Errorf("%s: %d reads", test.name, src.reads.Load())
		}
	}
}

func TestEachFaultOfASourceHasItsOwnError(t *testing.T) {
	store := cas.NewMemory()
	f, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 1<<20)), "size-1000")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		answer func(c cid.Cid, data []byte) ([]byte, error)
		want   error
	}{
		"flips a bit":        {func(_ cid.Cid, d []byte) ([]byte, error) { d = bytes.Clone(d); d[len(d)/2] ^= 1; return d, nil }, cas.ErrCorrupt},
		"cuts short":         {func(_ cid.Cid, d []byte) ([]byte, error) { return d[:len(d)-1], nil }, cas.ErrCorrupt},
		"adds a byte":        {func(_ cid.Cid, d []byte) ([]byte, error) { return append(bytes.Clone(d), 0), nil }, cas.ErrCorrupt},
		"swaps":              {func(cid.Cid, []byte) ([]byte, error) { return []byte("another block"), nil }, cas.ErrCorrupt},
		"sends nothing":      {func(cid.Cid, []byte) ([]byte, error) { return nil, nil }, cas.ErrCorrupt},
		"sends a lot":        {func(cid.Cid, []byte) ([]byte, error) { return make([]byte, 64<<20), nil }, cas.ErrCorrupt},
		"does not have it":   {func(c cid.Cid, _ []byte) ([]byte, error) { return nil, cas.NotFound(c) }, fs.ErrNotExist},
		"cannot be reached":  {func(cid.Cid, []byte) ([]byte, error) { return nil, cas.ErrUnreachable }, cas.ErrUnreachable},
		"cuts a leaf short":  {onlyLeaves(func(d []byte) ([]byte, error) { return d[1:], nil }), cas.ErrCorrupt},
		"has only the nodes": {onlyLeaves(func([]byte) ([]byte, error) { return nil, fs.ErrNotExist }), fs.ErrNotExist},
	} {
		src := answers{store, test.answer}
		var out bytes.Buffer
		if err := cas.Copy(t.Context(), &out, src, f.CID, f.Size); !errors.Is(err, test.want) || out.Len() > 0 {
			t.Errorf("%s: %v after %d bytes, want %v and none", name, err, out.Len(), test.want)
		}
		if _, err := io.Copy(&out, cas.NewReader(t.Context(), src, f.CID, f.Size)); !errors.Is(err, test.want) || out.Len() > 0 {
			t.Errorf("Reader: %s: %v after %d bytes, want %v and none", name, err, out.Len(), test.want)
		}
	}
}

// answers is a source that changes the blocks of another source.
type answers struct {
	source cas.Source
	answer func(c cid.Cid, data []byte) ([]byte, error)
}

func (a answers) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := a.source.Block(ctx, c)
	if err != nil {
		return nil, err
	}
	return a.answer(c, data)
}

func onlyLeaves(f func([]byte) ([]byte, error)) func(cid.Cid, []byte) ([]byte, error) {
	return func(c cid.Cid, data []byte) ([]byte, error) {
		if c.Type() == cid.Raw {
			return f(data)
		}
		return data, nil
	}
}
