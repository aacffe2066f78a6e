package cas_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dag "github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestFoldersAreThoseOfIPFSAdd(t *testing.T) {
	names := []string{"timestamp.json", "1.root.json", "1.stable-x86_64.json", "1.targets.json", "10.snapshot.json", "2.snapshot.json", "é", "a b"}
	for n := range len(names) + 1 {
		serv, store := mdtest.Mock(), cas.NewMemory()
		theirs, err := uio.NewBasicDirectory(serv, uio.WithCidBuilder(blake3Pre))
		if err != nil {
			t.Fatal(err)
		}
		var ours []cas.Link
		for _, name := range names[:n] {
			data := []byte("the file " + name)
			leaf, err := dag.NewRawNodeWPrefix(data, blake3Pre)
			if err != nil {
				t.Fatal(err)
			}
			if err := theirs.AddChild(t.Context(), name, leaf); err != nil {
				t.Fatal(err)
			}
			ours = append(ours, cas.Link{Name: name, CID: cas.Sum(cid.Raw, data), Tsize: uint64(len(data))})
		}
		node, err := theirs.GetNode()
		if err != nil {
			t.Fatal(err)
		}
		c, err := cas.AddDir(t.Context(), store.Put, ours)
		if err != nil {
			t.Fatal(err)
		}
		if c != node.Cid() {
			t.Errorf("%d entries: %s, boxo gives %s", n, c, node.Cid())
		}
		got, err := cas.ReadDir(t.Context(), store, c)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(ours, func(a, b cas.Link) int { return strings.Compare(a.Name, b.Name) })
		if !slices.Equal(got, ours) {
			t.Errorf("%d entries: %s", n, cmp.Diff(ours, got, cmp.Comparer(func(a, b cid.Cid) bool { return a == b })))
		}
	}
}

func TestHostileFoldersAreRefused(t *testing.T) {
	leaf := cas.Sum(cid.Raw, []byte("x"))
	dir := func(links ...cas.TestLink) []byte { return cas.TestNode{Kind: 1, Links: links}.Encode() }
	many := make([]cas.TestLink, cas.MaxLinks+1)
	for i := range many {
		many[i] = cas.TestLink{CID: leaf, Name: fmt.Sprintf("%05d", i)}
	}
	tests := map[string][]byte{
		"not a node":       []byte("no"),
		"nothing":          {},
		"a file":           cas.TestNode{Kind: 2, Size: 1, Links: []cas.TestLink{{CID: leaf}}, Blocks: []uint64{1}}.Encode(),
		"a HAMT":           cas.TestNode{Kind: 5}.Encode(),
		"a name twice":     dir(cas.TestLink{CID: leaf, Name: "a"}, cas.TestLink{CID: leaf, Name: "a"}),
		"out of order":     dir(cas.TestLink{CID: leaf, Name: "b"}, cas.TestLink{CID: leaf, Name: "a"}),
		"too many entries": dir(many...),
		"an endless size":  dir(cas.TestLink{CID: leaf, Name: "a", Tsize: 1 << 63}),
		"a trailing field": append(dir(cas.TestLink{CID: leaf, Name: "a"}), 0x1a, 0),
	}
	for _, name := range []string{"", ".", "..", "/", "a/b", "../a", "/etc", `a\b`, "a\x00", "a\n", "\x1b[2J", "\xff", strings.Repeat("a", 256)} {
		tests[fmt.Sprintf("name %.20q", name)] = dir(cas.TestLink{CID: leaf, Name: name})
		_, err := cas.AddDir(t.Context(), cas.NewMemory().Put, []cas.Link{{Name: name, CID: leaf}})
		if err == nil {
			t.Errorf("AddDir takes %q", name)
		}
	}
	for name, c := range castest.RefusedCIDs(t) {
		if c.Defined() {
			tests["link "+name] = dir(cas.TestLink{CID: c, Name: "a"})
		}
	}
	for name, block := range tests {
		var src blocks
		c := src.put(cid.DagProtobuf, block)
		if got, err := cas.ReadDir(t.Context(), &src, c); !errors.Is(err, cas.ErrCorrupt) || len(got) > 0 {
			t.Errorf("%s: %v, %v, want ErrCorrupt", name, got, err)
		}
	}
	if _, err := cas.ReadDir(t.Context(), cas.NewMemory(), leaf); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("a raw leaf: %v", err)
	}
}
