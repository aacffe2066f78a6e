package car

import "encoding/binary"

const (
	// CIDLen is the length of every CID, in bytes: version, codec, hash function and digest
	// length of one byte each, and a digest of 32 bytes.
	CIDLen = 36
	// MaxHead is the length of the longest head, in bytes: a length and a CID.
	MaxHead = maxVarint + CIDLen
	// NoRoots is the header of a CAR without roots, its length included.
	NoRoots = "\x11\xa2\x65roots\x80\x67version\x01"

	maxVarint = 3 // bytes of a length
)

// AppendHeader appends the header of a CAR with one root, its length included. root is the
// binary form of a CID.
func AppendHeader(b []byte, root string) []byte {
	// The DAG-CBOR of {"roots": [root], "version": 1}.
	const before, after = "\xa2\x65roots\x81\xd8\x2a\x58", "\x67version\x01"
	b = binary.AppendUvarint(b, uint64(len(before)+2+len(root)+len(after)))
	b = append(b, before...)
	b = append(b, byte(len(root)+1), 0)
	b = append(b, root...)
	return append(b, after...)
}

// AppendHead appends the head of the section of a block of size bytes: its length and its
// CID in binary form. The block follows it.
func AppendHead[CID string | []byte](b []byte, cid CID, size int) []byte {
	return append(binary.AppendUvarint(b, uint64(CIDLen+size)), cid...)
}

// HeadLen is the length of the head of a section with a block of size bytes.
func HeadLen(size int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(CIDLen+size)) + CIDLen
}

// SectionLen is the length of the section of a block of size bytes.
func SectionLen(size int) int { return HeadLen(size) + size }

// A Head is the parsed head of a section.
type Head struct {
	CID  [CIDLen]byte
	Len  int // bytes of the head
	Size int // bytes of the block
}

// ParseHead reads the head of a section from the beginning of b. ok is false when b does not
// begin with a head, or ends within it.
func ParseHead(b []byte) (h Head, ok bool) {
	n, k := ParseLength(b)
	if k <= 0 || n < CIDLen || len(b) < k+CIDLen {
		return Head{}, false
	}
	return Head{CID: [CIDLen]byte(b[k:]), Len: k + CIDLen, Size: n - CIDLen}, true
}

// ParseLength reads the length of a header or of a section from the beginning of b: n bytes
// follow the first k. k is 0 when b ends too early, and negative when b begins with no
// length: it would be longer than three bytes, or a shorter form exists.
func ParseLength(b []byte) (n, k int) {
	v, k := binary.Uvarint(b[:min(maxVarint, len(b))])
	if k == 0 && len(b) >= maxVarint || k > 1 && b[k-1] == 0 {
		return 0, -1
	}
	return int(v), k
}
