package bucket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// The index of a pack: a mark, the number of bytes of the pack, the number of records, the records
// in the order of their CIDs, and the BLAKE3 of everything before it. A record is a CID, and offset
// and size of its section. Numbers are little-endian. Unlike the index of cas/pack it has the codec
// and the size of each block, so that a block is found and read with one request.
const (
	indexMark   = "PHASEBI1"
	indexHead   = len(indexMark) + 8 + 8
	indexRecord = car.CIDLen + 4 + 4
	indexSum    = 32

	maxPackSize = 1 << 30 // bytes
	maxRecords  = 1 << 20 // blocks in a pack
	maxIndex    = indexHead + maxRecords*indexRecord + indexSum
)

type key [car.CIDLen]byte

// A record is the position of a section in a pack.
type record struct {
	key    key
	offset uint32 // of the head
	size   uint32 // of the section, its head included
}

func compareKeys(a, b record) int { return bytes.Compare(a.key[:], b.key[:]) }

// encodeIndex returns the index of a pack, and sorts its records.
func encodeIndex(records []record, packSize int64) []byte {
	slices.SortFunc(records, compareKeys)
	b := make([]byte, 0, indexHead+len(records)*indexRecord+indexSum)
	b = append(b, indexMark...)
	b = binary.LittleEndian.AppendUint64(b, uint64(packSize))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(records)))
	for _, r := range records {
		b = append(b, r.key[:]...)
		b = binary.LittleEndian.AppendUint32(b, r.offset)
		b = binary.LittleEndian.AppendUint32(b, r.size)
	}
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// parseIndex returns the records of an index, in the order of their CIDs, and the size of its pack.
// Sections lie in the pack, and every CID is one that is accepted. Errors wrap cas.ErrCorrupt.
func parseIndex(b []byte) (records []record, packSize int64, err error) {
	bad := fmt.Errorf("not an index of this format: %w", cas.ErrCorrupt)
	if len(b) < indexHead+indexSum || string(b[:len(indexMark)]) != indexMark {
		return nil, 0, bad
	}
	body := b[:len(b)-indexSum]
	if sum := blake3.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, 0, fmt.Errorf("checksum does not match: %w", cas.ErrCorrupt)
	}
	size, n := binary.LittleEndian.Uint64(body[len(indexMark):]), binary.LittleEndian.Uint64(body[len(indexMark)+8:])
	body = body[indexHead:]
	if size > maxPackSize || n > maxRecords || uint64(len(body)) != n*uint64(indexRecord) {
		return nil, 0, bad
	}
	records = make([]record, n)
	for i := range records {
		r := record{offset: binary.LittleEndian.Uint32(body[car.CIDLen:]), size: binary.LittleEndian.Uint32(body[car.CIDLen+4:])}
		copy(r.key[:], body)
		body = body[indexRecord:]
		if !cas.IsCID(string(r.key[:])) || r.offset < uint32(len(car.NoRoots)) || uint64(r.offset)+uint64(r.size) > size ||
			r.size <= car.CIDLen || r.size > uint32(car.SectionLen(cas.MaxBlock)) || i > 0 && compareKeys(records[i-1], r) >= 0 {
			return nil, 0, bad
		}
		records[i] = r
	}
	return records, int64(size), nil
}

// byOffset returns records in the order of the pack.
func byOffset(records []record) []record {
	sorted := slices.Clone(records)
	slices.SortFunc(sorted, func(a, b record) int { return int(int64(a.offset) - int64(b.offset)) })
	return sorted
}
