package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"
)

// Limits on what is read. Anything beyond them is refused, wherever it
// came from.
const (
	MaxBlock  = 1 << 20 // bytes of one block
	MaxDepth  = 8       // levels of inner nodes over the leaves
	MaxLinks  = 1024    // links of one inner node, entries of one folder
	MaxLeaves = 1 << 22 // leaves of one file, and inner nodes visited in it
	MaxName   = 255     // bytes of one name in a folder
)

var (
	// ErrCorrupt says that bytes do not hash to their name, or that a DAG
	// breaks a limit or contradicts its own sizes.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnreachable says that a source gave no answer; the bytes may exist.
	ErrUnreachable = errors.New("unreachable")
)

// A Source returns the bytes of a block, at most MaxBlock of them, or an error
// that wraps fs.ErrNotExist (it does not have the block) or ErrUnreachable. It
// may lie: read it through Get. It must be safe for concurrent use. The bytes
// may be shared: nobody changes them.
type Source interface {
	Block(ctx context.Context, c cid.Cid) ([]byte, error)
}

// A Store is a Source that also keeps. A block is kept durably once Sync, or a
// Put followed by Close, has returned nil after its Put.
type Store interface {
	Source
	// Has reports whether the store lists the block.
	Has(ctx context.Context, c cid.Cid) (bool, error)
	// Put keeps data under c. The caller has computed c from data or read it
	// through Get. Keeping a block twice is free and no error. Put does not
	// hold on to data after it returns.
	Put(ctx context.Context, c cid.Cid, data []byte) error
	Sync(ctx context.Context) error
	Close() error
}

// Get reads one block and returns it only if the name is one that we accept
// and the bytes hash to it. It is the only way to read a Source.
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

// A WrongError says that bytes do not hash to their name. It wraps ErrCorrupt.
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

// Check reports whether data is the block that c names: within MaxBlock, and
// hashing to it. A mismatch is a *WrongError; all errors wrap ErrCorrupt.
func Check(c cid.Cid, data []byte) error {
	if err := CheckCID(c); err != nil {
		return err
	}
	if len(data) > MaxBlock {
		return fmt.Errorf("block %s: %d bytes, the limit is %d: %w", c, len(data), MaxBlock, ErrCorrupt)
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

// The binary form of every CID that we read: version, codec, hash, digest
// length, each of them one byte, and 32 bytes of digest.
const (
	cidPrefix = 4
	cidLen    = cidPrefix + 32
)

// CheckCID reports whether c is a name that we read: CIDv1, codec raw or
// dag-pb, multihash blake3 or sha2-256 of exactly 32 bytes. Anything else wraps
// ErrCorrupt.
func CheckCID(c cid.Cid) error {
	if !c.Defined() {
		return fmt.Errorf("CID: empty: %w", ErrCorrupt)
	}
	if !readable(c.KeyString()) {
		return fmt.Errorf("CID %.80q: only CIDv1, raw or dag-pb, blake3 or sha2-256 of 32 bytes are read: %w", c.String(), ErrCorrupt)
	}
	return nil
}

// readable reports whether the binary form of a CID is one that we read.
func readable(key string) bool {
	return len(key) == cidLen && key[0] == 1 && (key[1] == cid.Raw || key[1] == cid.DagProtobuf) &&
		(key[2] == mh.BLAKE3 || key[2] == mh.SHA2_256) && key[3] == 32
}

// isRaw reports whether a checked CID names a leaf.
func isRaw(c cid.Cid) bool { return c.KeyString()[1] == cid.Raw }

// Sum names data: CIDv1, the given codec (cid.Raw or cid.DagProtobuf), BLAKE3-256.
func Sum(codec uint64, data []byte) cid.Cid {
	digest := blake3.Sum256(data)
	h, err := mh.Encode(digest[:], mh.BLAKE3)
	if err != nil {
		panic(err) // cannot happen: the code is known and the length fixed
	}
	return cid.NewCidV1(codec, h)
}

// ParseCID reads the text form of a CID and checks it as CheckCID does.
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

// NotFound is the error of a Source that does not have c.
func NotFound(c cid.Cid) error {
	return fmt.Errorf("block %s: %w", c, fs.ErrNotExist)
}
