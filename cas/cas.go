package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"

	"github.com/phaseboot/phaseboot/internal/car"
)

// Limits on what is read, from any source. More than that is refused.
const (
	MaxBlock  = 1 << 20 // bytes of one block
	MaxDepth  = 8       // levels of inner nodes over the leaves
	MaxLinks  = 1024    // links of one inner node, entries of one folder
	MaxLeaves = 1 << 22 // leaves of one file, and inner nodes visited in it
	MaxName   = 255     // bytes of one name in a folder
)

var (
	// ErrCorrupt is wrapped by the error for bytes that do not hash to their CID, and
	// for a DAG that exceeds a limit or whose sizes do not add up.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnreachable is wrapped by the error of a source that did not answer. The block
	// may exist.
	ErrUnreachable = errors.New("unreachable")
)

// A Source returns the bytes of a block, at most MaxBlock of them, or an error that wraps
// fs.ErrNotExist (it does not have the block) or ErrUnreachable. The bytes are unchecked and
// may be wrong: read them through Get. A Source must be safe for concurrent use. The bytes
// may be shared: the caller must not change them.
type Source interface {
	Block(ctx context.Context, c cid.Cid) ([]byte, error)
}

// A Store is a Source that also keeps blocks. A block survives a power cut once a Sync or a
// Close after its Put has returned nil.
type Store interface {
	Source
	// Has reports whether the store lists the block. It does not read the block.
	Has(ctx context.Context, c cid.Cid) (bool, error)
	// Put stores data under c. The caller computed c from data or read data through Get.
	// Put of a block that is stored already does nothing. It does not use data after it
	// returns.
	Put(ctx context.Context, c cid.Cid, data []byte) error
	// Sync makes all blocks durable that were put before it.
	Sync(ctx context.Context) error
	Close() error
}

// A FileSource is a Source that keeps its blocks in files. It is the one optional interface
// through which blocks are read. Append and ReadLeafInto use it to read a block into the
// caller's buffer, and internal/gateway to send many neighbouring blocks of a file. Like
// Block, its methods do not check the bytes: read them through Append and ReadSection.
type FileSource interface {
	Source
	// AppendBlock is Block with the bytes appended to b. size is their expected number,
	// which saves a read, or negative. A block of another size is returned all the same.
	AppendBlock(ctx context.Context, c cid.Cid, size int, b []byte) ([]byte, error)
	// OpenBlock opens the file that holds c and returns the offset of c's section in it.
	// The file is a CARv1 (internal/car). Blocks that were added one after another are
	// mostly neighbours in it. The caller closes the file.
	OpenBlock(ctx context.Context, c cid.Cid) (f *os.File, offset int64, err error)
}

// Get reads one block. It returns the bytes only if CheckCID accepts c and the bytes hash to
// c. A Source is read through Get, or through Append or ReadSection, which check alike.
func Get(ctx context.Context, src Source, c cid.Cid) ([]byte, error) {
	if err := CheckCID(c); err != nil {
		return nil, err
	}
	data, err := src.Block(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := Check(c, data); err != nil {
		return nil, err
	}
	return data, nil
}

// Append is Get with the bytes appended to b. size is their expected number, or negative
// when it is not known. On an error it returns b as it was.
func Append(ctx context.Context, src Source, c cid.Cid, size int, b []byte) ([]byte, error) {
	files, ok := src.(FileSource)
	if !ok {
		data, err := Get(ctx, src, c)
		return append(b, data...), err
	}
	if err := CheckCID(c); err != nil {
		return b, err
	}
	longer, err := files.AppendBlock(ctx, c, size, b)
	if err == nil {
		err = Check(c, longer[len(b):])
	}
	if err != nil {
		return b, err
	}
	return longer, nil
}

// ReadSection reads the section of a leaf, its head included, at an offset of a file that
// OpenBlock returned. It appends the section to b if the block hashes to its CID; on an
// error it returns b as it was. Another section at that offset, and a wrong block, wrap
// ErrCorrupt.
func ReadSection(f io.ReaderAt, offset int64, l Leaf, b []byte) ([]byte, error) {
	if l.Size < 0 || l.Size > MaxBlock {
		return b, fmt.Errorf("block %s: a leaf of %d bytes, the limit is %d: %w", l.CID, l.Size, MaxBlock, ErrCorrupt)
	}
	start, n := len(b), car.SectionLen(int(l.Size))
	b = slices.Grow(b, n)[:start+n]
	if k, err := f.ReadAt(b[start:], offset); k < n {
		return b[:start], fmt.Errorf("block %s: at byte %d: %w", l.CID, offset, err)
	}
	h, ok := car.ParseHead(b[start:])
	if !ok || string(h.CID[:]) != l.CID.KeyString() || int64(h.Size) != l.Size {
		return b[:start], fmt.Errorf("block %s: another section at byte %d: %w", l.CID, offset, ErrCorrupt)
	}
	if err := Check(l.CID, b[start+h.Len:]); err != nil {
		return b[:start], err
	}
	return b, nil
}

// A WrongError is the error for bytes that do not hash to their CID. It wraps ErrCorrupt.
type WrongError struct {
	CID    cid.Cid
	Size   int // bytes
	Digest [32]byte
}

func (e *WrongError) Error() string {
	return fmt.Sprintf("block %s: its %d bytes hash to %x: %v", e.CID, e.Size, e.Digest, ErrCorrupt)
}

// Unwrap returns ErrCorrupt.
func (e *WrongError) Unwrap() error { return ErrCorrupt }

// Check returns nil if CheckCID accepts c, and data has at most MaxBlock bytes and hashes to
// c. A mismatch is a *WrongError. All errors wrap ErrCorrupt.
func Check(c cid.Cid, data []byte) error {
	if err := CheckPut(c, data); err != nil {
		return err
	}
	key := c.KeyString()
	var digest [32]byte
	if key[2] == mh.BLAKE3 {
		digest = blake3.Sum256(data)
	} else {
		digest = sha256.Sum256(data)
	}
	if key[cidPrefix:] != string(digest[:]) {
		return &WrongError{CID: c, Size: len(data), Digest: digest}
	}
	return nil
}

// The binary form of every CID that CheckCID accepts: version, codec, hash function and
// digest length, of one byte each, and 32 bytes of digest.
const (
	cidPrefix = 4
	cidLen    = cidPrefix + 32
)

// CheckCID returns nil for a CID that is accepted: CIDv1, codec raw or dag-pb, multihash
// blake3 or sha2-256 of exactly 32 bytes. The error for any other CID wraps ErrCorrupt.
func CheckCID(c cid.Cid) error {
	if !c.Defined() {
		return fmt.Errorf("CID: empty: %w", ErrCorrupt)
	}
	if !IsCID(c.KeyString()) {
		return fmt.Errorf("CID %.80q: only CIDv1, raw or dag-pb, blake3 or sha2-256 of 32 bytes is accepted: %w", c.String(), ErrCorrupt)
	}
	return nil
}

// IsCID reports whether key is the binary form of a CID that CheckCID accepts.
func IsCID(key string) bool {
	return len(key) == cidLen && key[0] == 1 && (key[1] == cid.Raw || key[1] == cid.DagProtobuf) &&
		(key[2] == mh.BLAKE3 || key[2] == mh.SHA2_256) && key[3] == 32
}

// isRaw reports whether a checked CID has the codec raw, which is that of a leaf.
func isRaw(c cid.Cid) bool { return c.KeyString()[1] == cid.Raw }

// Sum returns the CID of data: CIDv1, the given codec (cid.Raw or cid.DagProtobuf),
// BLAKE3-256.
func Sum(codec uint64, data []byte) cid.Cid {
	digest := blake3.Sum256(data)
	h, err := mh.Encode(digest[:], mh.BLAKE3)
	if err != nil {
		panic(err) // cannot happen: the code is known and the length fixed
	}
	return cid.NewCidV1(codec, h)
}

// ParseCID parses the text form of a CID and checks it as CheckCID does.
func ParseCID(s string) (cid.Cid, error) {
	if len(s) > 256 {
		return cid.Undef, fmt.Errorf("CID %.80q: %d characters: %w", s, len(s), ErrCorrupt)
	}
	c, err := cid.Decode(s)
	if err != nil {
		return cid.Undef, fmt.Errorf("CID %.80q: %w (%w)", s, err, ErrCorrupt)
	}
	if err := CheckCID(c); err != nil {
		return cid.Undef, err
	}
	return c, nil
}

// NotFound returns the error of a Source that does not have c. It wraps fs.ErrNotExist.
func NotFound(c cid.Cid) error {
	return fmt.Errorf("block %s: %w", c, fs.ErrNotExist)
}

// CheckPut returns an error for a block that Get would never return: one with a CID that
// CheckCID refuses, or with more than MaxBlock bytes. It does not hash data.
func CheckPut(c cid.Cid, data []byte) error {
	if err := CheckCID(c); err != nil {
		return err
	}
	if len(data) > MaxBlock {
		return fmt.Errorf("block %s: %d bytes, the limit is %d: %w", c, len(data), MaxBlock, ErrCorrupt)
	}
	return nil
}
