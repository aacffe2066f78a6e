package cas_test

import (
	"bytes"
	"errors"
	"testing"

	dag "github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// dagPB is a CID of a node; its digest does not matter.
var dagPB = cas.Sum(cid.DagProtobuf, nil)

func seedNodes(f *testing.F) {
	leaf := cas.Sum(cid.Raw, []byte("x"))
	f.Add(fileNode(3, repeat(leaf, 3), []uint64{1, 1, 1}).Encode())
	f.Add(cas.TestNode{Kind: 1}.Encode())
	f.Add(cas.TestNode{Kind: 1, Links: []cas.TestLink{{CID: leaf, Name: "1.root.json", Tsize: 1}, {CID: leaf, Name: "timestamp.json", Tsize: 1}}}.Encode())
	f.Add(ft.FilePBData([]byte("data"), 4))
	f.Add(ft.FolderPBData())
}

// An accepted node encodes back to the same bytes, and boxo decodes the same node.
func FuzzNode(f *testing.F) {
	seedNodes(f)
	f.Fuzz(func(t *testing.T, block []byte) {
		n, err := cas.DecodeTestNode(block)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(n.Encode(), block) || len(n.Links) > cas.MaxLinks {
			t.Fatalf("accepted %x as %+v", block, n)
		}
		if exported, err := cas.DecodeNode(dagPB, block); err == nil && (len(exported.Links) != len(n.Links) || exported.Dir != (n.Kind == 1) || uint64(exported.Size) != n.Size) {
			t.Fatalf("accepted %x as %+v and as %+v", block, n, exported)
		}
		theirs, err := dag.DecodeProtobuf(block)
		if err != nil {
			t.Fatalf("boxo refuses %x: %v", block, err)
		}
		fs, err := ft.FSNodeFromBytes(theirs.Data())
		if err != nil {
			t.Fatalf("boxo refuses the data of %x: %v", block, err)
		}
		if len(theirs.Links()) != len(n.Links) || uint64(fs.Type()) != n.Kind {
			t.Fatalf("boxo decodes %x to another node", block)
		}
		for i, l := range theirs.Links() {
			if l.Cid != n.Links[i].CID || l.Name != n.Links[i].Name || l.Size != n.Links[i].Tsize {
				t.Fatalf("boxo decodes link %d of %x to another link", i, block)
			}
		}
		if n.Kind == 2 && (fs.FileSize() != n.Size || len(fs.BlockSizes()) != len(n.Blocks)) {
			t.Fatalf("boxo decodes other sizes from %x", block)
		}
	})
}

func FuzzDir(f *testing.F) {
	seedNodes(f)
	f.Fuzz(func(t *testing.T, block []byte) {
		var src blocks
		entries, err := cas.ReadDir(t.Context(), &src, src.put(cid.DagProtobuf, block))
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		store := cas.NewMemory()
		c, err := cas.AddDir(t.Context(), store.Put, entries)
		if err != nil {
			t.Fatalf("accepted %x as %v: %v", block, entries, err)
		}
		if c != cas.Sum(cid.DagProtobuf, block) {
			t.Fatalf("accepted %x encodes to another folder", block)
		}
	})
}
