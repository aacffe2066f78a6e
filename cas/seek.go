package cas

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/ipfs/go-cid"
)

// A Reader reads the file root from any offset. It checks each block as Copy does before it
// returns a byte of it, and keeps one leaf and the inner nodes above it in memory. It is not
// for concurrent use.
type Reader struct {
	ctx  context.Context
	src  Source
	root cid.Cid
	size int64

	at    int64   // offset of the next byte
	nodes []inner // from the root down to the node above leaf
	leaf  Leaf
	data  []byte // of leaf; nil before the first
	buf   []byte
}

// inner is an inner node of the file, and the range [from, end) of its bytes.
type inner struct {
	links     []Link
	from, end int64
}

var _ io.ReadSeeker = (*Reader)(nil)

// NewReader returns a Reader at offset 0. size is the signed length of the file.
func NewReader(ctx context.Context, src Source, root cid.Cid, size int64) *Reader {
	return &Reader{ctx: ctx, src: src, root: root, size: size}
}

// Seek sets the offset of the next Read. It reads no block.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.at, fmt.Errorf("file %s: offset %d: %w", r.root, offset, fs.ErrInvalid)
	}
	r.at = offset
	return offset, nil
}

// Read returns bytes of one leaf. A wrong block, and a file that has not exactly the signed
// length, wrap ErrCorrupt.
func (r *Reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, r.checkEmpty()
	}
	if r.data == nil || r.at < r.leaf.Offset || r.at >= r.leaf.Offset+r.leaf.Size {
		if err := r.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.data[r.at-r.leaf.Offset:])
	r.at += int64(n)
	return n, nil
}

// checkEmpty returns io.EOF, or the error of the only block of a file without bytes.
func (r *Reader) checkEmpty() error {
	if r.size <= 0 {
		if err := walk(r.ctx, r.src, r.root, r.size, func(l Leaf) (err error) {
			_, err = ReadLeafInto(r.ctx, r.src, l, &r.buf)
			return err
		}); err != nil {
			return err
		}
	}
	return io.EOF
}

// load reads the leaf with the next byte.
func (r *Reader) load() (err error) {
	r.data = nil
	if r.leaf, err = r.find(); err == nil {
		r.data, err = ReadLeafInto(r.ctx, r.src, r.leaf, &r.buf)
	}
	return err
}

// find returns the leaf with the next byte. It reads only the nodes that the leaf before it was not
// below. Like walk, it refuses a node that does not cover exactly the bytes that the node above says.
func (r *Reader) find() (Leaf, error) {
	if err := CheckCID(r.root); err != nil {
		return Leaf{}, err
	}
	for len(r.nodes) > 0 && !r.nodes[len(r.nodes)-1].covers(r.at) {
		r.nodes = r.nodes[:len(r.nodes)-1]
	}
	c, from, size := r.root, int64(0), r.size
	if len(r.nodes) > 0 {
		c, from, size = r.nodes[len(r.nodes)-1].child(r.at)
	}
	for !isRaw(c) {
		if len(r.nodes) == MaxDepth {
			return Leaf{}, fmt.Errorf("node %s: more than %d levels of nodes: %w", c, MaxDepth, ErrCorrupt)
		}
		links, err := readNode(r.ctx, r.src, c, size)
		if err != nil {
			return Leaf{}, err
		}
		n := inner{links, from, from + size}
		r.nodes = append(r.nodes, n)
		c, from, size = n.child(r.at)
	}
	if size > MaxBlock {
		return Leaf{}, fmt.Errorf("block %s: a leaf of %d bytes, the limit is %d: %w", c, size, MaxBlock, ErrCorrupt)
	}
	return Leaf{CID: c, Offset: from, Size: size}, nil
}

func (n inner) covers(at int64) bool { return at >= n.from && at < n.end }

// child returns the block below the node with the byte at an offset, and the offset and number of
// its bytes. readNode has checked that there is one.
func (n inner) child(at int64) (c cid.Cid, from, size int64) {
	from = n.from
	for _, l := range n.links {
		if at < from+l.Size {
			return l.CID, from, l.Size
		}
		from += l.Size
	}
	panic("cas: offset outside of a node")
}
