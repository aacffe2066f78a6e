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
	links := make([]link, len(n.Links))
	for i, l := range n.Links {
		links[i] = link{cid: l.CID, name: l.Name, size: l.Tsize}
	}
	return encodeNode(links, unixfs{kind: n.Kind, size: n.Size, blocks: n.Blocks})
}

func DecodeTestNode(block []byte) (TestNode, error) {
	links, fs, err := decodeNode(block)
	n := TestNode{Kind: fs.kind, Size: fs.size, Blocks: fs.blocks}
	for _, l := range links {
		n.Links = append(n.Links, TestLink{l.cid, l.name, l.size})
	}
	return n, err
}

func DecodeDir(block []byte) ([]Entry, error) { return decodeDir(block) }
