package cas

import (
	"context"
	"fmt"
	"hash"
	"io"
	"runtime"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// A File is the root of a file and its length.
type File struct {
	CID  cid.Cid
	Size int64 // bytes
}

// A PutFunc takes a block, as Store.Put does. It must not use data after it returns.
type PutFunc func(ctx context.Context, c cid.Cid, data []byte) error

// AddFile cuts r into leaves with the named chunker, hashes leaves and inner nodes, and calls
// put for every block: the leaves in file order, then the inner nodes, the root last. It
// calls put from one goroutine at a time. Leaves are hashed on all cores; AddFile uses a few
// segments of memory, of 1 to 5 MiB each. With size-N the root is the one that
// `ipfs add --cid-version=1 --chunker=size-N --hash=blake3` gives (raw leaves, 174 links a
// node).
//
// sums, such as a SHA-256 over the whole file, get the bytes of r in order while the leaves
// are cut and hashed. AddFile returns after their last Write.
func AddFile(ctx context.Context, put PutFunc, r io.Reader, chunker string, sums ...hash.Hash) (File, error) {
	k, err := parseChunker(chunker)
	if err != nil {
		return File{}, err
	}
	leaves, err := addLeaves(ctx, put, r, k, sums)
	if err != nil {
		return File{}, err
	}
	return addTree(ctx, put, leaves, k.links())
}

// FileCID returns what AddFile returns, and stores nothing.
func FileCID(ctx context.Context, r io.Reader, chunker string, sums ...hash.Hash) (File, error) {
	return AddFile(ctx, func(context.Context, cid.Cid, []byte) error { return nil }, r, chunker, sums...)
}

// A job is a segment in the pipeline of addLeaves.
type job struct {
	*segment
	cids   []cid.Cid     // of the leaves
	hashed chan struct{} // receives when cids is filled
	summed chan struct{} // receives when the sums have got the bytes
}

// addLeaves is a pipeline with a fixed number of jobs: the caller's goroutine reads, so r is
// never read after addLeaves has returned; one goroutine writes to the sums; one goroutine
// cuts; one goroutine on each core hashes; one goroutine puts the leaves in file order and
// returns the job to the reader.
func addLeaves(ctx context.Context, put PutFunc, r io.Reader, k chunker, sums []hash.Hash) ([]Link, error) {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *job, workers+4)
	read, unsummed := make(chan *job, cap(free)), make(chan *job, cap(free))
	unhashed, order := make(chan *job, cap(free)), make(chan *job, cap(free))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { sumSegments(sums, unsummed); return nil })
	g.Go(func() error { cutLeaves(k, read, unhashed, order); return nil })
	for range workers {
		g.Go(func() error { hashLeaves(unhashed); return nil })
	}
	var leaves []Link
	g.Go(func() error {
		var err error
		leaves, err = putLeaves(gctx, put, order, free)
		return err
	})
	readErr := readSegments(gctx, r, k, free, read, unsummed)
	close(read)
	close(unsummed)
	// A failed put cancels gctx and so ends the reader: return the error of put.
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return leaves, readErr
}

// readSegments fills jobs from r. It makes a new job only while no job is free.
func readSegments(ctx context.Context, r io.Reader, k chunker, free chan *job, read, unsummed chan<- *job) error {
	for made := 0; ; {
		if made < cap(free) && len(free) == 0 {
			made++
			free <- &job{segment: k.newSegment(), hashed: make(chan struct{}, 1), summed: make(chan struct{}, 1)}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case j := <-free:
			if err := j.fill(r, k); err != nil {
				return err
			}
			unsummed <- j
			read <- j
			if j.last {
				return nil
			}
		}
	}
}

// sumSegments writes the bytes of jobs to the sums.
func sumSegments(sums []hash.Hash, unsummed <-chan *job) {
	for j := range unsummed {
		for _, s := range sums {
			s.Write(j.read) // never fails
		}
		j.summed <- struct{}{}
	}
}

// cutLeaves cuts the jobs in file order and passes them on.
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

// hashLeaves computes the CIDs of the leaves of jobs.
func hashLeaves(unhashed <-chan *job) {
	for j := range unhashed {
		j.cids = j.cids[:0]
		for _, leaf := range j.leaves {
			j.cids = append(j.cids, Sum(cid.Raw, leaf))
		}
		j.hashed <- struct{}{}
	}
}

// putLeaves puts the leaves of jobs in file order and returns them.
func putLeaves(ctx context.Context, put PutFunc, order <-chan *job, free chan<- *job) ([]Link, error) {
	var leaves []Link
	for j := range order {
		<-j.hashed
		for i, leaf := range j.leaves {
			if len(leaves) == MaxLeaves {
				return nil, fmt.Errorf("file: more than %d leaves; use a chunker with larger leaves", MaxLeaves)
			}
			if err := put(ctx, j.cids[i], leaf); err != nil {
				return nil, err
			}
			leaves = append(leaves, Link{CID: j.cids[i], Size: int64(len(leaf)), Tsize: uint64(len(leaf))})
		}
		<-j.summed
		free <- j
	}
	return leaves, nil
}

// addTree puts the inner nodes over the leaves in boxo's balanced layout: it groups each
// level from the left into nodes of width links, until one node is left.
func addTree(ctx context.Context, put PutFunc, level []Link, width int) (File, error) {
	for len(level) > 1 {
		next := make([]Link, 0, (len(level)+width-1)/width)
		for len(level) > 0 {
			n := min(width, len(level))
			parent, block := addNode(level[:n])
			if err := put(ctx, parent.CID, block); err != nil {
				return File{}, err
			}
			next, level = append(next, parent), level[n:]
		}
		level = next
	}
	return File{CID: level[0].CID, Size: level[0].Size}, nil
}

// addNode returns the inner node over children, and its block.
func addNode(children []Link) (Link, []byte) {
	var parent Link
	fs := unixfs{kind: typeFile, blocks: make([]uint64, len(children))}
	for i, c := range children {
		fs.blocks[i] = uint64(c.Size)
		parent.Size += c.Size
		parent.Tsize += c.Tsize
	}
	fs.size = uint64(parent.Size)
	block := encodeNode(children, fs)
	parent.Tsize += uint64(len(block))
	parent.CID = Sum(cid.DagProtobuf, block)
	return parent, block
}
