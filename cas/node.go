package cas

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"
)

// The wire form of DAG nodes is dag-pb (https://ipld.io/specs/codecs/dag-pb/spec/) around
// UnixFS v1 (https://specs.ipfs.tech/unixfs/). Only the form that Kubo and boxo write is
// read: a block that decodes encodes back to the same bytes.

// A Node is a decoded dag-pb block: an inner node of a file, or a folder of one block.
type Node struct {
	Dir   bool
	Size  int64 // bytes of the file; 0 for a folder
	Links []Link
}

// A Link is a link of a Node.
type Link struct {
	CID   cid.Cid
	Name  string // in a folder: of the entry
	Size  int64  // in a file: bytes of the file below the link
	Tsize uint64 // bytes of all blocks below the link; unchecked, so nothing may rely on it
}

// DecodeNode decodes the block of c, which was checked. A raw block is a node without links. It
// refuses more than MaxLinks links, a link whose CID CheckCID refuses, a file that has not one
// size for each link, and entries of a folder that ReadDir refuses. It does not compare the
// sizes of a file. All errors wrap ErrCorrupt.
func DecodeNode(c cid.Cid, block []byte) (Node, error) {
	if isRaw(c) {
		return Node{Size: int64(len(block))}, nil
	}
	links, fs, err := decodeNode(block)
	n := Node{Dir: fs.kind == typeDir, Size: int64(fs.size), Links: links}
	switch {
	case err != nil:
	case n.Dir:
		err = checkEntries(links)
	case len(links) != len(fs.blocks):
		err = fmt.Errorf("%d links and %d sizes: %w", len(links), len(fs.blocks), ErrCorrupt)
	}
	if err != nil {
		return Node{}, err
	}
	for i, size := range fs.blocks { // a folder has none
		n.Links[i].Size = int64(size)
	}
	return n, nil
}

// getNode reads a node and decodes it.
func getNode(ctx context.Context, src Source, c cid.Cid) (Node, error) {
	block, err := Get(ctx, src, c)
	if err != nil {
		return Node{}, err
	}
	n, err := DecodeNode(c, block)
	if err != nil {
		return n, fmt.Errorf("node %s: %w", c, err)
	}
	return n, nil
}

// UnixFS types.
const (
	typeDir  = 1
	typeFile = 2
)

// unixfs is the data of a node: its type and, for a file, the sizes below it.
type unixfs struct {
	kind   uint64
	size   uint64   // filesize
	blocks []uint64 // blocksizes, one for each link
}

// Field numbers: PBNode, PBLink, UnixFS Data.
const (
	nodeData, nodeLinks          = 1, 2
	linkHash, linkName, linkSize = 1, 2, 3
	fsType, fsSize, fsBlocks     = 1, 3, 4
)

func encodeNode(links []Link, fs unixfs) []byte {
	b := make([]byte, 0, 64+len(links)*64)
	for _, l := range links {
		n := protowire.SizeTag(linkHash) + protowire.SizeBytes(l.CID.ByteLen()) +
			protowire.SizeTag(linkName) + protowire.SizeBytes(len(l.Name)) +
			protowire.SizeTag(linkSize) + protowire.SizeVarint(l.Tsize)
		b = protowire.AppendTag(b, nodeLinks, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(n))
		b = protowire.AppendTag(b, linkHash, protowire.BytesType)
		b = protowire.AppendString(b, l.CID.KeyString())
		b = protowire.AppendTag(b, linkName, protowire.BytesType)
		b = protowire.AppendString(b, l.Name)
		b = protowire.AppendTag(b, linkSize, protowire.VarintType)
		b = protowire.AppendVarint(b, l.Tsize)
	}
	b = protowire.AppendTag(b, nodeData, protowire.BytesType)
	return protowire.AppendBytes(b, encodeUnixfs(fs))
}

func encodeUnixfs(fs unixfs) []byte {
	b := protowire.AppendTag(nil, fsType, protowire.VarintType)
	b = protowire.AppendVarint(b, fs.kind)
	if fs.kind != typeFile {
		return b
	}
	b = protowire.AppendTag(b, fsSize, protowire.VarintType)
	b = protowire.AppendVarint(b, fs.size)
	for _, n := range fs.blocks {
		b = protowire.AppendTag(b, fsBlocks, protowire.VarintType)
		b = protowire.AppendVarint(b, n)
	}
	return b
}

// decodeNode decodes a node: at most MaxLinks links, each with a CID that CheckCID accepts,
// and the UnixFS data of an inner node of a file or of a folder. All errors wrap ErrCorrupt.
func decodeNode(block []byte) ([]Link, unixfs, error) {
	var (
		links []Link
		fs    unixfs
	)
	err := eachField(block, func(num protowire.Number, _ uint64, val []byte) error {
		switch num {
		case nodeLinks:
			if len(links) == MaxLinks {
				return fmt.Errorf("more than %d links: %w", MaxLinks, ErrCorrupt)
			}
			l, err := decodeLink(val)
			links = append(links, l)
			return err
		case nodeData:
			var err error
			fs, err = decodeUnixfs(val)
			return err
		}
		return fmt.Errorf("unknown field %d: %w", num, ErrCorrupt)
	})
	if err == nil && !bytes.Equal(encodeNode(links, fs), block) {
		err = fmt.Errorf("not in the form that Kubo writes: %w", ErrCorrupt)
	}
	return links, fs, err
}

func decodeLink(b []byte) (Link, error) {
	var l Link
	err := eachField(b, func(num protowire.Number, n uint64, val []byte) error {
		switch num {
		case linkHash:
			c, err := cid.Cast(val)
			if err != nil {
				return fmt.Errorf("link: %w (%w)", err, ErrCorrupt)
			}
			l.CID = c
			return CheckCID(c)
		case linkName:
			l.Name = string(val)
		case linkSize:
			l.Tsize = n
		default:
			return fmt.Errorf("link: unknown field %d: %w", num, ErrCorrupt)
		}
		return nil
	})
	if err == nil && !l.CID.Defined() {
		err = fmt.Errorf("link without a CID: %w", ErrCorrupt)
	}
	return l, err
}

func decodeUnixfs(b []byte) (unixfs, error) {
	var fs unixfs
	err := eachField(b, func(num protowire.Number, n uint64, _ []byte) error {
		switch num {
		case fsType:
			if fs.kind = n; n != typeDir && n != typeFile {
				return fmt.Errorf("UnixFS type %d, neither a file nor a folder: %w", n, ErrCorrupt)
			}
		case fsSize:
			fs.size = n
			return checkSize(n)
		case fsBlocks:
			if len(fs.blocks) == MaxLinks {
				return fmt.Errorf("more than %d block sizes: %w", MaxLinks, ErrCorrupt)
			}
			fs.blocks = append(fs.blocks, n)
			return checkSize(n)
		default:
			return fmt.Errorf("UnixFS field %d; only files of raw leaves and plain folders are accepted: %w", num, ErrCorrupt)
		}
		return nil
	})
	return fs, err
}

// checkSize refuses a size that no file has.
func checkSize(n uint64) error {
	if n > 1<<62 {
		return fmt.Errorf("a size of %d bytes: %w", n, ErrCorrupt)
	}
	return nil
}

// eachField calls f for every field of a protobuf message: n is the value of a varint, val
// that of bytes. Other wire types are refused.
func eachField(b []byte, f func(num protowire.Number, n uint64, val []byte) error) error {
	for len(b) > 0 {
		num, typ, skip := protowire.ConsumeTag(b)
		if skip < 0 {
			return fmt.Errorf("garbled field: %w", ErrCorrupt)
		}
		b = b[skip:]
		var (
			n   uint64
			val []byte
		)
		switch typ {
		case protowire.VarintType:
			n, skip = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			val, skip = protowire.ConsumeBytes(b)
		default:
			skip = -1
		}
		if skip < 0 {
			return fmt.Errorf("garbled field %d: %w", num, ErrCorrupt)
		}
		b = b[skip:]
		if err := f(num, n, val); err != nil {
			return err
		}
	}
	return nil
}
