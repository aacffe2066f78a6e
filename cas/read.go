package cas

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// A Leaf is one raw block of a file.
type Leaf struct {
	CID    cid.Cid
	Offset int64 // of its first byte in the file
	Size   int64 // bytes, as the node above it says; ReadLeafInto compares it with the block
}

// Leaves reads the inner nodes of the file root from src and returns its leaves in file
// order. It does not read the leaves. size is the signed length of the file: unless the
// leaves cover exactly size bytes without a gap, the error wraps ErrCorrupt.
func Leaves(ctx context.Context, src Source, root cid.Cid, size int64) ([]Leaf, error) {
	var leaves []Leaf
	err := walk(ctx, src, root, size, func(l Leaf) error {
		leaves = append(leaves, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leaves, nil
}

// ReadLeafInto reads one leaf, checked as by Get, and checks its length. The bytes that it
// returns may be in *buf, which grows as needed, and are good until the next call with that
// buffer.
func ReadLeafInto(ctx context.Context, src Source, l Leaf, buf *[]byte) ([]byte, error) {
	if _, ok := src.(FileSource); !ok || l.Size < 0 || l.Size > MaxBlock {
		return l.checked(Get(ctx, src, l.CID))
	}
	data, err := Append(ctx, src, l.CID, int(l.Size), (*buf)[:0])
	if cap(data) > cap(*buf) {
		*buf = data
	}
	return l.checked(data, err)
}

// checked compares the length of a block with the length that the node above it says.
func (l Leaf) checked(data []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != l.Size {
		return nil, fmt.Errorf("block %s: %d bytes, its file says %d: %w", l.CID, len(data), l.Size, ErrCorrupt)
	}
	return data, nil
}

// Copy writes the file root, of exactly size bytes, to w. It checks each block before it
// writes a byte of it. It reads a few leaves ahead and checks them on all cores; only the
// caller's goroutine writes to w.
func Copy(ctx context.Context, w io.Writer, src Source, root cid.Cid, size int64) error {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *readAhead, 4*workers)
	unread, order := make(chan *readAhead, cap(free)), make(chan *readAhead, cap(free))
	for range cap(free) {
		free <- &readAhead{done: make(chan struct{}, 1)}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(unread)
		defer close(order)
		return walk(gctx, src, root, size, func(l Leaf) error {
			select {
			case a := <-free:
				a.leaf = l
				order <- a // never waits: its capacity is that of free
				unread <- a
				return nil
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	})
	for range workers {
		g.Go(func() error {
			for a := range unread {
				a.data, a.err = ReadLeafInto(gctx, src, a.leaf, &a.buf)
				a.done <- struct{}{}
			}
			return nil
		})
	}
	err := writeLeaves(gctx, w, order, free)
	g.Go(func() error { return err }) // an error ends the walk
	return g.Wait()
}

// readAhead is a leaf that Copy reads before its turn to be written. It is used again for a
// later leaf.
type readAhead struct {
	leaf Leaf
	data []byte
	buf  []byte // for ReadLeafInto
	err  error
	done chan struct{} // receives when data or err is set
}

// writeLeaves writes leaves in the given order, each as soon as it was read.
func writeLeaves(ctx context.Context, w io.Writer, order <-chan *readAhead, free chan<- *readAhead) error {
	for a := range order {
		select {
		case <-a.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if a.err != nil {
			return a.err
		}
		if _, err := w.Write(a.data); err != nil {
			return err
		}
		free <- a
	}
	return nil
}

// ReadFile returns the whole file root. It is for files whose length is not known, such as
// metadata. The error for a file of more than limit bytes wraps ErrCorrupt.
func ReadFile(ctx context.Context, src Source, root cid.Cid, limit int64) ([]byte, error) {
	block, err := Get(ctx, src, root)
	if err != nil {
		return nil, err
	}
	n, err := DecodeNode(root, block)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", root, err)
	}
	if n.Size > limit {
		return nil, fmt.Errorf("file %s: %d bytes, the limit is %d: %w", root, n.Size, limit, ErrCorrupt)
	}
	if isRaw(root) {
		return block, nil
	}
	var buf bytes.Buffer
	if err := Copy(ctx, &buf, src, root, n.Size); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Blocks calls visit with the CID of every block of the file root, each node before the
// blocks below it. A block that occurs twice in the file is visited twice. Blocks reads the
// nodes from src and checks them; it does not read the leaves.
func Blocks(ctx context.Context, src Source, root cid.Cid, visit func(cid.Cid) error) error {
	if err := CheckCID(root); err != nil {
		return err
	}
	w := walker{src: src, node: visit, visit: func(l Leaf) error { return visit(l.CID) }}
	if isRaw(root) {
		return w.leaf(root, 0)
	}
	n, err := getNode(ctx, src, root)
	if err != nil {
		return err
	}
	return w.file(ctx, root, n.Size, 0)
}

// walk calls visit for the leaves of a file in file order.
func walk(ctx context.Context, src Source, root cid.Cid, size int64, visit func(Leaf) error) error {
	if err := CheckCID(root); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("file %s: its length is %d bytes, must not be negative: %w", root, size, ErrCorrupt)
	}
	if size == 0 && !isRaw(root) {
		return fmt.Errorf("file %s: an inner node in an empty file: %w", root, ErrCorrupt)
	}
	w := walker{src: src, visit: visit}
	return w.file(ctx, root, size, 0)
}

// A walker visits the blocks of one file, depth first.
type walker struct {
	src           Source
	visit         func(Leaf) error
	node          func(cid.Cid) error // called for each inner node; may be nil
	offset        int64               // bytes of the leaves visited so far
	leaves, nodes int                 // number of visits so far; a repeated block counts each time
}

// file visits the leaves under c, which must cover exactly size bytes. It compares the size
// of a node with those of its children before it visits a child, so the whole walk never
// covers more bytes than the size of the root.
func (w *walker) file(ctx context.Context, c cid.Cid, size int64, depth int) error {
	if isRaw(c) {
		return w.leaf(c, size)
	}
	if depth == MaxDepth {
		return fmt.Errorf("node %s: more than %d levels of nodes: %w", c, MaxDepth, ErrCorrupt)
	}
	if w.nodes++; w.nodes > MaxLeaves {
		return fmt.Errorf("node %s: more than %d nodes in a file: %w", c, MaxLeaves, ErrCorrupt)
	}
	if w.node != nil {
		if err := w.node(c); err != nil {
			return err
		}
	}
	links, err := readNode(ctx, w.src, c, size)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := w.file(ctx, l.CID, l.Size, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) leaf(c cid.Cid, size int64) error {
	if size > MaxBlock {
		return fmt.Errorf("block %s: a leaf of %d bytes, the limit is %d: %w", c, size, MaxBlock, ErrCorrupt)
	}
	if w.leaves++; w.leaves > MaxLeaves {
		return fmt.Errorf("block %s: more than %d leaves in a file: %w", c, MaxLeaves, ErrCorrupt)
	}
	l := Leaf{CID: c, Offset: w.offset, Size: size}
	w.offset += size
	return w.visit(l)
}

// readNode reads an inner node of a file. It refuses a node that does not cover exactly size
// bytes, whose links do not add up to size, or that has an empty or a named link.
func readNode(ctx context.Context, src Source, c cid.Cid, size int64) ([]Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := getNode(ctx, src, c)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("node %s: %s: %w", c, fmt.Sprintf(format, args...), ErrCorrupt)
	}
	switch {
	case n.Dir:
		return nil, bad("a folder, not a file")
	case n.Size != size:
		return nil, bad("a file of %d bytes, the node above says %d", n.Size, size)
	}
	left := size
	for i, l := range n.Links {
		if l.Size == 0 || l.Size > left || l.Name != "" {
			return nil, bad("link %d of %d bytes with a name of %d bytes, %d left", i, l.Size, len(l.Name), left)
		}
		left -= l.Size
	}
	if left != 0 {
		return nil, bad("its links are %d bytes short", left)
	}
	return n.Links, nil
}
