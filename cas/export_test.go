package cas

import "github.com/ipfs/go-cid"

// Unexported parts that the tests of hostile bytes use.

type (
	TestLink struct {
		CID   cid.Cid
		Name  string
		Tsize uint64
	}
	TestNode struct {
		Links  []TestLink
		Kind   uint64 // UnixFS type
		Size   uint64
		Blocks []uint64
	}
)

func (n TestNode) Encode() []byte {
	links := make([]Link, len(n.Links))
	for i, l := range n.Links {
		links[i] = Link{CID: l.CID, Name: l.Name, Tsize: l.Tsize}
	}
	return encodeNode(links, unixfs{kind: n.Kind, size: n.Size, blocks: n.Blocks})
}

func DecodeTestNode(block []byte) (TestNode, error) {
	links, fs, err := decodeNode(block)
	n := TestNode{Kind: fs.kind, Size: fs.size, Blocks: fs.blocks}
	for _, l := range links {
		n.Links = append(n.Links, TestLink{l.CID, l.Name, l.Tsize})
	}
	return n, err
}
