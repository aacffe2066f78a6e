package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// ErrNoRuns says that a gateway answered a run of blocks with something else, as a
// static web server does, or with other blocks than asked for: it can still be asked
// for single blocks.
var ErrNoRuns = errors.New("gives no runs of blocks")

const (
	maxCARHeader = 128 // bytes of the CARv1 header of one root; ours takes 59
	nameLen      = 36  // bytes of every CID that we read
	runNodes     = 64  // inner nodes that may come between the leaves of a run
)

// Run asks for neighbouring leaves of the file root in one request, and calls take
// with the index and the bytes of each, in order, as soon as it has arrived and
// hashes to its name. The bytes are take's until it returns. No two leaves may have
// the same name.
//
// The inner nodes above them were read before, and our own gateways leave them out; see
// RepeatsNodes for others.
//
// An error ends the run; leaves that were taken before stay good. It wraps
// cas.ErrCorrupt for a block that does not hash to its name, ErrNoRuns when the
// answer is no such run, and those of Block. Errors of take are returned as they are.
func (c *Client) Run(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take func(i int, data []byte) error) error {
	last := leaves[len(leaves)-1]
	path := fmt.Sprintf("/ipfs/%s?format=car&dag-scope=entity&entity-bytes=%d:%d&nodes=n", root, leaves[0].Offset, last.Offset+last.Size-1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := c.watch(cancel)
	defer watch.stop()
	resp, err := c.request(ctx, path, typeCAR+"; version=1; order=dfs; dups=n", "")
	if err != nil {
		return fmt.Errorf("run of %s: %w", root, err)
	}
	defer resp.Body.Close()
	if err := runStatus(resp); err != nil {
		return fmt.Errorf("run of %s: %w", root, err)
	}
	err = c.readRun(resp.Body, root, leaves, watch, take)
	if lost := (*lostError)(nil); errors.As(err, &lost) {
		return fmt.Errorf("run of %s: %w", root, lostBody(ctx, lost.err))
	}
	return err
}

// runStatus takes a refusal of the request itself for "no runs here".
func runStatus(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusNotAcceptable, http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return fmt.Errorf("status %d: %w", resp.StatusCode, ErrNoRuns)
	}
	return status(resp)
}

// lostError marks what went wrong with the connection, and not with its bytes.
type lostError struct{ err error }

func (l *lostError) Error() string { return l.err.Error() }

func lostBody(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return lost(ctx, err)
}

// A runReader reads sections of a CARv1. Its buffers are used again.
type runReader struct {
	r     *bufio.Reader
	name  [nameLen]byte
	block []byte
	total int
}

var runReaders = sync.Pool{New: func() any { return &runReader{r: bufio.NewReaderSize(nil, 4<<10)} }}

// RepeatsNodes reports whether the gateway sent inner nodes in a run, as one does that
// follows the specification to the letter: short runs are not worth it then.
func (c *Client) RepeatsNodes() bool { return c.repeats.Load() }

func (c *Client) readRun(body io.Reader, root cid.Cid, leaves []cas.Leaf, watch *watch, take func(i int, data []byte) error) error {
	rr := runReaders.Get().(*runReader)
	defer runReaders.Put(rr)
	rr.r.Reset(body)
	defer rr.r.Reset(nil)
	rr.total = 0
	if err := rr.header(root); err != nil {
		return err
	}
	nodes := 0
	for i := 0; i < len(leaves); {
		if err := rr.section(watch); err != nil {
			return err
		}
		switch {
		case string(rr.name[:]) == leaves[i].CID.KeyString():
			if err := cas.Check(leaves[i].CID, rr.block); err != nil {
				return err
			}
			if err := take(i, rr.block); err != nil {
				return err
			}
			i++
		case rr.name[1] != cid.DagProtobuf || nodes == runNodes:
			return fmt.Errorf("run of %s: %w: block %x where %s is due", root, ErrNoRuns, rr.name, leaves[i].CID)
		default: // a node above the leaves, which was read and checked before
			nodes++
			c.repeats.Store(true)
		}
	}
	rr.r.ReadByte() // mostly the end, which lets the connection be used again
	return nil
}

// header reads the CARv1 header; it must be the one of a single root.
func (rr *runReader) header(root cid.Cid) error {
	n, err := binary.ReadUvarint(rr.r)
	if err != nil {
		return &lostError{err}
	}
	want := carHeader(root)
	if n != uint64(len(want)) || n > maxCARHeader {
		return fmt.Errorf("run of %s: %w: no CAR of it", root, ErrNoRuns)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(rr.r, got); err != nil {
		return &lostError{err}
	}
	if string(got) != string(want) {
		return fmt.Errorf("run of %s: %w: no CAR of it", root, ErrNoRuns)
	}
	return nil
}

// section reads one block into rr.block and its name, which is as long as every CID
// that we read, into rr.name.
func (rr *runReader) section(watch *watch) error {
	n, err := binary.ReadUvarint(rr.r)
	if err != nil {
		return &lostError{err}
	}
	if n < nameLen || n > nameLen+cas.MaxBlock {
		return fmt.Errorf("%w: a section of %d bytes", ErrNoRuns, n)
	}
	if _, err := io.ReadFull(rr.r, rr.name[:]); err != nil {
		return &lostError{err}
	}
	n -= nameLen
	if uint64(cap(rr.block)) < n {
		rr.block = make([]byte, n, min(cas.MaxBlock, max(2*n, firstRead)))
	}
	rr.block = rr.block[:n]
	for at := 0; at < int(n); {
		k, err := rr.r.Read(rr.block[at:])
		at += k
		rr.total += k
		if err != nil && at < int(n) {
			return &lostError{err}
		}
		watch.progress(rr.total)
	}
	return nil
}
