package pack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/ipfs/go-cid"
	"github.com/zeebo/blake3"
)

// Unexported parts that the tests of hostile bytes use.

const PackHeader = packHeader

// FixIndexSum corrects the checksum of an index, so that the index is parsed.
func FixIndexSum(data []byte) []byte {
	if len(data) < 32 {
		return data
	}
	sum := blake3.Sum256(data[:len(data)-32])
	return append(data[:len(data)-32:len(data)-32], sum[:]...)
}

// FindInIndex opens an index file and returns the offsets that it lists for c.
func FindInIndex(path string, data []byte, c cid.Cid) (offsets []int64, err error) {
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return nil, err
	}
	pack := path + ".car" // the largest pack
	if err := errors.Join(os.WriteFile(pack, nil, 0o644), os.Truncate(pack, maxPack)); err != nil {
		return nil, err
	}
	of, err := openPackFile(pack, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer of.close()
	x, err := new(Store).openIndex(context.Background(), path, of)
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

// MergeAfter returns opts with which at most that many sealed packs are not merged.
func MergeAfter(opts Options, packs int) Options {
	opts.maxUnmerged = packs
	return opts
}

// Unmerged returns the number of packs that are not merged, and of all packs.
func (p *Store) Unmerged() (unmerged, all int) { return len(p.unmerged), len(p.packs) }

// EncodeMerged returns the merged index of one pack, whose index is EncodeIndex of the same
// offsets.
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

// EncodeIndex returns the index of blocks at the given offsets of a pack.
func EncodeIndex(offsets map[cid.Cid]int64, covered int64) []byte {
	sections := make(map[sectionKey]int64)
	for c, offset := range offsets {
		sections[sectionKey([]byte(c.KeyString()))] = offset
	}
	return encodeIndex(sections, covered)
}
