package cas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/ipfs/go-cid"
	"github.com/zeebo/blake3"
)

// The inner parts that the tests of hostile bytes need.

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

func DecodeNode(block []byte) (TestNode, error) {
	links, fs, err := decodeNode(block)
	n := TestNode{Kind: fs.kind, Size: fs.size, Blocks: fs.blocks}
	for _, l := range links {
		n.Links = append(n.Links, TestLink{l.cid, l.name, l.size})
	}
	return n, err
}

func DecodeDir(block []byte) ([]Entry, error) { return decodeDir(block) }

const PackHeader = packHeader

// FixIndexSum makes the checksum of an index right, so that what it speaks of is read.
func FixIndexSum(data []byte) []byte {
	if len(data) < 32 {
		return data
	}
	sum := blake3.Sum256(data[:len(data)-32])
	return append(data[:len(data)-32:len(data)-32], sum[:]...)
}

// FindInIndex opens an index file and returns the offsets that it gives for c.
func FindInIndex(path string, data []byte, c cid.Cid) (offsets []int64, err error) {
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return nil, err
	}
	pack := path + ".car" // as large as it may be
	if err := errors.Join(os.WriteFile(pack, nil, 0o644), os.Truncate(pack, maxPack)); err != nil {
		return nil, err
	}
	of, err := openPackFile(pack, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer of.close()
	x, err := new(Packs).openIndex(context.Background(), path, of)
	if err != nil {
		return nil, err
	}
	key, n := sectionKey([]byte(c.KeyString())), 0
	_, findErr := x.find(&key, new(scratch), func(offset int64) bool {
		offsets = append(offsets, offset)
		return false
	})
	eachErr := x.each(func(byte, []byte, int64) { n++ })
	if n != x.count {
		return nil, fmt.Errorf("%d records, %d counted", n, x.count)
	}
	return offsets, errors.Join(findErr, eachErr, x.close())
}

// MergeAfter returns opts with as many sealed packs at most that are not merged.
func MergeAfter(opts PackOptions, packs int) PackOptions {
	opts.loose = packs
	return opts
}

// Loose returns how many packs the merged index does not speak for, and how many there are.
func (p *Packs) Loose() (loose, all int) { return len(p.loose), len(p.packs) }

// EncodeMerged is the merged index of one pack whose index is EncodeIndex of the same.
func EncodeMerged(offsets map[cid.Cid]int64, num int, covered int64) []byte {
	idx := EncodeIndex(offsets, covered)
	n := len(idx) - indexTrailer
	b := append([]byte(nil), idx[:n]...)
	for _, v := range []int64{int64(num), covered, int64(len(offsets))} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	b = append(b, idx[len(idx)-32:]...)
	b = binary.LittleEndian.AppendUint64(append(b, mergedMark...), 1)
	return FixIndexSum(append(b, make([]byte, 32)...))
}

// EncodeIndex indexes blocks at the given offsets of a pack.
func EncodeIndex(offsets map[cid.Cid]int64, covered int64) []byte {
	sections := make(map[sectionKey]int64)
	for c, offset := range offsets {
		sections[sectionKey([]byte(c.KeyString()))] = offset
	}
	return encodeIndex(sections, covered)
}
