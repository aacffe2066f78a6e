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

func seedNodes(f *testing.F) {
	leaf := cas.Sum(cid.Raw, []byte("x"))
	f.Add(fileNode(3, repeat(leaf, 3), []uint64{1, 1, 1}).Encode())
	f.Add(cas.TestNode{Kind: 1}.Encode())
	f.Add(cas.TestNode{Kind: 1, Links: []cas.TestLink{{CID: leaf, Name: "1.root.json", Tsize: 1}, {CID: leaf, Name: "timestamp.json", Tsize: 1}}}.Encode())
	f.Add(ft.FilePBData([]byte("data"), 4))
	f.Add(ft.FolderPBData())
}

// What is accepted encodes back to the same bytes, and boxo reads the same in it.
func FuzzNode(f *testing.F) {
	seedNodes(f)
	f.Fuzz(func(t *testing.T, block []byte) {
		n, err := cas.DecodeNode(block)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(n.Encode(), block) || len(n.Links) > cas.MaxLinks {
			t.Fatalf("accepted %x as %+v", block, n)
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
			t.Fatalf("boxo reads %x otherwise", block)
		}
		for i, l := range theirs.Links() {
			if l.Cid != n.Links[i].CID || l.Name != n.Links[i].Name || l.Size != n.Links[i].Tsize {
				t.Fatalf("boxo reads link %d of %x otherwise", i, block)
			}
		}
		if n.Kind == 2 && (fs.FileSize() != n.Size || len(fs.BlockSizes()) != len(n.Blocks)) {
			t.Fatalf("boxo reads the sizes of %x otherwise", block)
		}
	})
}

func FuzzDir(f *testing.F) {
	seedNodes(f)
	f.Fuzz(func(t *testing.T, block []byte) {
		entries, err := cas.DecodeDir(block)
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
