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

// A Leaf is one raw block of a file: its name, where it goes, and its length in
// bytes. The length is the file's word: ReadLeaf compares it with the block.
type Leaf struct {
	CID    cid.Cid
	Offset int64
	Size   int64
}

// Leaves reads the inner nodes of the file root from src and returns its leaves in
// file order. They cover exactly size bytes (pass the signed length), without a
// gap, or the error wraps ErrCorrupt. The leaves themselves are not read.
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

// ReadLeaf reads one leaf through Get and checks its length.
func ReadLeaf(ctx context.Context, src Source, l Leaf) ([]byte, error) {
	return ReadLeafInto(ctx, src, l, new([]byte))
}

// ReadLeafInto is ReadLeaf for a caller that reads many: what it returns may be in *room,
// which grows as needed and is overwritten by the next call.
func ReadLeafInto(ctx context.Context, src Source, l Leaf, room *[]byte) ([]byte, error) {
	p, ok := src.(*Packs)
	if !ok || l.Size < 0 || l.Size > MaxBlock {
		return l.checked(Get(ctx, src, l.CID))
	}
	if err := CheckCID(l.CID); err != nil {
		return nil, err
	}
	if n := int(l.Size) + maxHead; cap(*room) < n {
		*room = make([]byte, n)
	}
	data, err := p.sized(ctx, l.CID, int(l.Size), (*room)[:cap(*room)])
	if err == nil {
		err = Check(l.CID, data)
	}
	return l.checked(data, err)
}

// checked compares the length of a block with what the leaf's file says.
func (l Leaf) checked(data []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != l.Size {
		return nil, fmt.Errorf("block %s: %d bytes, its file says %d: %w", l.CID, len(data), l.Size, ErrCorrupt)
	}
	return data, nil
}

// Copy writes the file root, of exactly size bytes, to w: every block is checked
// before any byte of it is written. A few leaves are read ahead and checked on all
// cores; w is written by the caller's goroutine alone.
func Copy(ctx context.Context, w io.Writer, src Source, root cid.Cid, size int64) error {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *ahead, 4*workers)
	unread, order := make(chan *ahead, cap(free)), make(chan *ahead, cap(free))
	for range cap(free) {
		free <- &ahead{done: make(chan struct{}, 1)}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(unread)
		defer close(order)
		return walk(gctx, src, root, size, func(l Leaf) error {
			select {
			case a := <-free:
				a.leaf = l
				order <- a // there is room for all of them
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
				a.data, a.err = ReadLeafInto(gctx, src, a.leaf, &a.room)
				a.done <- struct{}{}
			}
			return nil
		})
	}
	writeErr := writeAhead(gctx, w, order, free)
	if writeErr != nil {
		g.Go(func() error { return writeErr }) // ends the walk
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return writeErr
}

// ahead is a leaf that is being read. Its bytes are overwritten by those of a later one.
type ahead struct {
	leaf Leaf
	data []byte
	room []byte
	err  error
	done chan struct{}
}

func writeAhead(ctx context.Context, w io.Writer, order <-chan *ahead, free chan<- *ahead) error {
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

// ReadFile returns the whole file root, which may have at most limit bytes: for files
// whose length is not known yet, such as metadata. A longer one wraps ErrCorrupt.
func ReadFile(ctx context.Context, src Source, root cid.Cid, limit int64) ([]byte, error) {
	block, err := Get(ctx, src, root)
	if err != nil {
		return nil, err
	}
	size := int64(len(block))
	if !isRaw(root) {
		_, fs, err := decodeNode(block)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", root, err)
		}
		size = int64(min(fs.size, 1<<62))
	}
	if size > limit {
		return nil, fmt.Errorf("file %s: %d bytes, at most %d are read: %w", root, size, limit, ErrCorrupt)
	}
	if isRaw(root) {
		return block, nil
	}
	var buf bytes.Buffer
	if err := Copy(ctx, &buf, src, root, size); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Blocks calls visit for the name of every block of the file root, nodes before what is
// below them. A block that is in the file twice is visited twice. Nodes are read from
// src and checked; leaves are not read.
func Blocks(ctx context.Context, src Source, root cid.Cid, visit func(cid.Cid) error) error {
	if err := CheckCID(root); err != nil {
		return err
	}
	w := walker{src: src, node: visit, visit: func(l Leaf) error { return visit(l.CID) }}
	if isRaw(root) {
		return w.leaf(root, 0)
	}
	block, err := Get(ctx, src, root)
	if err != nil {
		return err
	}
	_, fs, err := decodeNode(block)
	if err != nil {
		return fmt.Errorf("node %s: %w", root, err)
	}
	return w.file(ctx, root, fs.size, 0)
}

// walk visits the leaves of a file in order.
func walk(ctx context.Context, src Source, root cid.Cid, size int64, visit func(Leaf) error) error {
	if err := CheckCID(root); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("file %s: a length of %d bytes: %w", root, size, ErrCorrupt)
	}
	if size == 0 && !isRaw(root) {
		return fmt.Errorf("file %s: nodes over no bytes: %w", root, ErrCorrupt)
	}
	w := walker{src: src, visit: visit}
	return w.file(ctx, root, uint64(size), 0)
}

type walker struct {
	src           Source
	visit         func(Leaf) error
	node          func(cid.Cid) error // nil: nobody asks
	offset        uint64              // bytes of the leaves visited so far
	leaves, nodes int                 // visited so far, however often the same one
}

// file visits the leaves under c, which must cover exactly size bytes. The sizes
// are checked downwards, parent against children, before a child is visited: so the
// whole walk never covers more than the root's size.
func (w *walker) file(ctx context.Context, c cid.Cid, size uint64, depth int) error {
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
	links, blocks, err := readNode(ctx, w.src, c, size)
	if err != nil {
		return err
	}
	for i, l := range links {
		if err := w.file(ctx, l.cid, blocks[i], depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) leaf(c cid.Cid, size uint64) error {
	if size > MaxBlock {
		return fmt.Errorf("block %s: a leaf of %d bytes, the limit is %d: %w", c, size, MaxBlock, ErrCorrupt)
	}
	if w.leaves++; w.leaves > MaxLeaves {
		return fmt.Errorf("block %s: more than %d leaves in a file: %w", c, MaxLeaves, ErrCorrupt)
	}
	l := Leaf{CID: c, Offset: int64(w.offset), Size: int64(size)}
	w.offset += size
	return w.visit(l)
}

// readNode reads an inner node that must cover size bytes, and checks that its links
// do: none of them empty or named, together exactly size.
func readNode(ctx context.Context, src Source, c cid.Cid, size uint64) ([]link, []uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	block, err := Get(ctx, src, c)
	if err != nil {
		return nil, nil, err
	}
	links, fs, err := decodeNode(block)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", c, err)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("node %s: %s: %w", c, fmt.Sprintf(format, args...), ErrCorrupt)
	}
	switch {
	case fs.kind != typeFile:
		return nil, nil, bad("UnixFS type %d, not a file", fs.kind)
	case fs.size != size:
		return nil, nil, bad("a file of %d bytes where %d are due", fs.size, size)
	case len(links) != len(fs.blocks):
		return nil, nil, bad("%d links and %d sizes", len(links), len(fs.blocks))
	}
	left := size
	for i, n := range fs.blocks {
		if n == 0 || n > left || links[i].name != "" {
			return nil, nil, bad("link %d of %d bytes with a name of %d bytes, %d left", i, n, len(links[i].name), left)
		}
		left -= n
	}
	if left != 0 {
		return nil, nil, bad("its links miss %d bytes", left)
	}
	return links, fs.blocks, nil
}
