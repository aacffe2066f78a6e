package cas

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// A File is a file's name by content and its length in bytes.
type File struct {
	CID  cid.Cid
	Size int64
}

// AddFile cuts r as chunker says, names leaves and nodes, and calls put for every
// block: leaves in file order, then inner nodes, the root last. put is called by
// one goroutine at a time and must not keep data after it returns. Leaves are
// hashed on all cores; memory stays at a few segments of 1 to 9 MiB. With size-N
// the root is the one that `ipfs add --cid-version=1 --chunker=size-N --hash=blake3`
// gives (raw leaves, 174 links a node).
func AddFile(ctx context.Context, put func(ctx context.Context, c cid.Cid, data []byte) error, r io.Reader, chunker string) (File, error) {
	k, err := parseChunker(chunker)
	if err != nil {
		return File{}, err
	}
	leaves, err := addLeaves(ctx, put, r, k)
	if err != nil {
		return File{}, err
	}
	return addTree(ctx, put, leaves, k.links())
}

// FileCID names a file as AddFile does and keeps nothing.
func FileCID(ctx context.Context, r io.Reader, chunker string) (File, error) {
	return AddFile(ctx, func(context.Context, cid.Cid, []byte) error { return nil }, r, chunker)
}

// job is a segment on its way.
type job struct {
	*segment
	cids   []cid.Cid
	hashed chan struct{}
}

// addLeaves is a pipeline of jobs, a few of them for any file: the caller's goroutine
// reads, so r is never read after it returned; one goroutine cuts; one on each core hashes;
// and one puts the leaves in order and hands the job back to the reader.
func addLeaves(ctx context.Context, put func(context.Context, cid.Cid, []byte) error, r io.Reader, k chunker) ([]branch, error) {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *job, workers+3)
	read, unhashed, order := make(chan *job, cap(free)), make(chan *job, cap(free)), make(chan *job, cap(free))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { cutLeaves(k, read, unhashed, order); return nil })
	for range workers {
		g.Go(func() error { hashLeaves(unhashed); return nil })
	}
	var leaves []branch
	g.Go(func() error {
		var err error
		leaves, err = putLeaves(gctx, put, order, free)
		return err
	})
	readErr := readSegments(gctx, r, k, free, read)
	close(read)
	// A failed put cancels gctx: its error says more than the reader's.
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return leaves, readErr
}

func readSegments(ctx context.Context, r io.Reader, k chunker, free chan *job, read chan<- *job) error {
	for made := 0; ; {
		if made < cap(free) && len(free) == 0 {
			made++
			free <- &job{segment: k.newSegment(), hashed: make(chan struct{}, 1)}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case j := <-free:
			if err := j.fill(r, k); err != nil {
				return err
			}
			read <- j
			if j.last {
				return nil
			}
		}
	}
}

func cutLeaves(k chunker, read <-chan *job, unhashed, order chan<- *job) {
	c := cutter{kind: k}
	for j := range read {
		c.cut(j.segment)
		unhashed <- j
		order <- j
	}
	close(unhashed)
	close(order)
}

func hashLeaves(unhashed <-chan *job) {
	for j := range unhashed {
		j.cids = j.cids[:0]
		for _, leaf := range j.leaves {
			j.cids = append(j.cids, Sum(cid.Raw, leaf))
		}
		j.hashed <- struct{}{}
	}
}

func putLeaves(ctx context.Context, put func(context.Context, cid.Cid, []byte) error, order <-chan *job, free chan<- *job) ([]branch, error) {
	var leaves []branch
	for j := range order {
		<-j.hashed
		for i, leaf := range j.leaves {
			if len(leaves) == MaxLeaves {
				return nil, fmt.Errorf("file: more than %d leaves; use a chunker with larger leaves", MaxLeaves)
			}
			if err := put(ctx, j.cids[i], leaf); err != nil {
				return nil, err
			}
			n := uint64(len(leaf))
			leaves = append(leaves, branch{link: link{cid: j.cids[i], size: n}, bytes: n})
		}
		free <- j
	}
	return leaves, nil
}

// A branch is a link and the bytes of the file below it.
type branch struct {
	link
	bytes uint64
}

// addTree puts the inner nodes over the leaves: each level is grouped from the left
// into nodes of width links, until one is left. It is boxo's balanced layout.
func addTree(ctx context.Context, put func(context.Context, cid.Cid, []byte) error, level []branch, width int) (File, error) {
	for len(level) > 1 {
		next := make([]branch, 0, (len(level)+width-1)/width)
		for len(level) > 0 {
			n := min(width, len(level))
			parent, block := addNode(level[:n])
			if err := put(ctx, parent.cid, block); err != nil {
				return File{}, err
			}
			next, level = append(next, parent), level[n:]
		}
		level = next
	}
	return File{CID: level[0].cid, Size: int64(level[0].bytes)}, nil
}

func addNode(children []branch) (branch, []byte) {
	var parent branch
	links, fs := make([]link, len(children)), unixfs{kind: typeFile, blocks: make([]uint64, len(children))}
	for i, c := range children {
		links[i], fs.blocks[i] = c.link, c.bytes
		fs.size += c.bytes
		parent.size += c.size
	}
	block := encodeNode(links, fs)
	parent.bytes = fs.size
	parent.size += uint64(len(block))
	parent.cid = Sum(cid.DagProtobuf, block)
	return parent, block
}
