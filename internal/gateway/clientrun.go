package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// ErrNoRuns means that a gateway answered a request for a run of blocks with something else, as a
// static web server does, or with blocks that were not requested. It may still serve single blocks.
var ErrNoRuns = errors.New("no runs of blocks")

const runNodes = 64 // inner nodes that may come between the leaves of a run

// Run requests leaves of the file root in one request, and calls take with the index and the bytes
// of each leaf, in order, as soon as it has arrived and its hash is correct. The bytes are valid
// until take returns, or longer if take retains them. No two leaves may have the same CID. The
// leaves are adjacent in the file; if TakesGaps, there may be up to MaxGaps gaps between them.
//
// The caller has read the inner nodes above the leaves, so the gateway of Phase Boot omits them; see
// RepeatsNodes for other gateways.
//
// An error ends the run; leaves that take received before remain valid. The error wraps
// cas.ErrCorrupt for a block with a wrong hash, ErrNoRuns if the response is not such a run, and
// otherwise the errors of Block. Errors of take are returned unchanged.
func (c *Client) Run(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take func(i int, leaf RunLeaf) error) error {
	return c.requestRun(ctx, runRequest{
		name:   fmt.Sprintf("run of %s", root),
		path:   fmt.Sprintf("/ipfs/%s?format=car&dag-scope=entity&entity-bytes=%s&nodes=n", root, ranges(leaves)),
		accept: typeCAR + "; version=1; order=dfs; dups=n",
		status: runStatus,
		read:   func(_ http.Header, rr *runReader) error { return c.readRun(rr, root, leaves, take) },
	})
}

// A runRequest is a request for leaves of a file, and how its response is read.
type runRequest struct {
	name         string // in errors
	path, accept string
	more         []string // header fields, names and values in turn
	status       func(resp *http.Response) error
	read         func(head http.Header, rr *runReader) error
}

// requestRun sends a request for leaves and reads its response. Errors of read are returned unchanged, except those of
// the connection.
func (c *Client) requestRun(ctx context.Context, r runRequest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := c.startWatchdog(cancel)
	defer watch.stop()
	resp, err := c.request(ctx, r.path, r.accept, r.more...)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	defer resp.Body.Close()
	if err := r.status(resp); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	rr := newRunReader(resp.Body, watch)
	defer rr.release()
	err = r.read(resp.Header, rr)
	if lost := (*connError)(nil); errors.As(err, &lost) {
		return fmt.Errorf("%s: %w", r.name, bodyError(ctx, lost.err))
	}
	if err == nil {
		rr.fill(1) // reads the end of the body, so that the connection can be reused
	}
	return err
}

// ranges returns the entity-bytes parameter for leaves; adjacent leaves are one range.
func ranges(leaves []cas.Leaf) string {
	var b []byte
	for i := 0; i < len(leaves); {
		from, end := leaves[i].Offset, leaves[i].Offset
		for ; i < len(leaves) && leaves[i].Offset == end; i++ {
			end += leaves[i].Size
		}
		b = fmt.Appendf(b, "%d:%d,", from, end-1)
	}
	return string(b[:len(b)-1])
}

// runStatus returns ErrNoRuns for a status that refuses a run, as the gateway may still serve single
// blocks. It returns the error of status for a busy gateway and for a missing block.
func runStatus(resp *http.Response) error {
	err := status(resp)
	var busy *BusyError
	if err == nil || errors.As(err, &busy) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("status %d: %w", resp.StatusCode, ErrNoRuns)
}

// connError is an error of the connection, not of the received bytes.
type connError struct{ err error }

func (l *connError) Error() string { return l.err.Error() }

func bodyError(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return requestError(ctx, err)
}

// A RunLeaf has the bytes of a leaf in a reference-counted buffer. They are valid until the callback
// that received them returns, or until Release if Retain returned true.
type RunLeaf struct {
	Data []byte
	buf  *sharedBuffer // that holds Data; nil for a leaf that was not part of a run
}

// Retain keeps the bytes valid until Release, and reports whether it could: only for leaves of a run,
// and for at most maxRetained buffers.
func (l RunLeaf) Retain() bool { return l.buf != nil && l.buf.retain() }

// Release ends what Retain began.
func (l RunLeaf) Release() { l.buf.release() }

const (
	runBuffer   = 512 << 10 // bytes of the buffer of a run: one read returns a few leaves
	maxRetained = 20        // buffers with retained leaves
)

// A sharedBuffer is filled by one reader and returns to the pool after its last release.
type sharedBuffer struct {
	bytes    []byte
	retained bool // counted in retainedBuffers
	refs     atomic.Int32
}

var (
	sharedBuffers   = sync.Pool{New: func() any { return &sharedBuffer{bytes: make([]byte, runBuffer)} }}
	retainedBuffers atomic.Int32 // buffers with retained leaves
)

func newSharedBuffer() *sharedBuffer {
	b := sharedBuffers.Get().(*sharedBuffer)
	b.refs.Store(1)
	return b
}

// retain is called only by the reader.
func (b *sharedBuffer) retain() bool {
	if !b.retained {
		if retainedBuffers.Add(1) > maxRetained {
			retainedBuffers.Add(-1)
			return false
		}
		b.retained = true
	}
	b.refs.Add(1)
	return true
}

func (b *sharedBuffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	if b.retained {
		b.retained = false
		retainedBuffers.Add(-1)
	}
	sharedBuffers.Put(b)
}

// A runReader reads the body of a run: the sections of a CARv1, or a range of a file. The received bytes that are not consumed yet are
// buf.bytes[at:end]; they are returned without copying.
type runReader struct {
	body     io.Reader
	watchdog *watchdog
	buf      *sharedBuffer
	at, end  int
	total    int
}

func newRunReader(body io.Reader, watch *watchdog) *runReader {
	return &runReader{body: body, watchdog: watch, buf: newSharedBuffer()}
}

// release gives the buffer back, which leaves may retain.
func (rr *runReader) release() { rr.buf.release() }

// RepeatsNodes reports whether the gateway has sent inner nodes in a run, as the specification
// demands. Short runs are not worthwhile then.
func (c *Client) RepeatsNodes() bool { return c.sawNodes.Load() }

// MaxGaps is how many gaps there may be between the leaves of a run.
const MaxGaps = maxSpans - 1

// TakesGaps reports whether the gateway has omitted inner nodes from a run. Only the gateway of
// Phase Boot does, and it accepts runs with gaps.
func (c *Client) TakesGaps() bool { return c.sawNoNodes.Load() && !c.sawNodes.Load() }

func (c *Client) readRun(rr *runReader, root cid.Cid, leaves []cas.Leaf, take func(i int, leaf RunLeaf) error) error {
	if err := rr.header(root); err != nil {
		return err
	}
	nodes := 0
	for i := 0; i < len(leaves); {
		name, block, err := rr.section()
		if err != nil {
			return err
		}
		switch {
		case string(name) == leaves[i].CID.KeyString():
			if err := cas.Check(leaves[i].CID, block); err != nil {
				return err
			}
			if err := take(i, RunLeaf{block, rr.buf}); err != nil {
				return err
			}
			i++
		case name[1] != cid.DagProtobuf || nodes == runNodes:
			return fmt.Errorf("run of %s: %w: block %x in place of %s", root, ErrNoRuns, name, leaves[i].CID)
		default: // an inner node, which the caller has read and checked before
			nodes++
			c.sawNodes.Store(true)
		}
	}
	if nodes == 0 && !leaves[0].CID.Equals(root) {
		c.sawNoNodes.Store(true)
	}
	return nil
}

// header reads the CARv1 header, which must have root as its only root.
func (rr *runReader) header(root cid.Cid) error {
	want := car.AppendHeader(nil, root.KeyString())
	got, err := rr.consume(len(want))
	if lost := (*connError)(nil); errors.As(err, &lost) && lost.err == io.EOF {
		err = nil // the whole response is shorter than a header
	}
	if err == nil && string(got) != string(want) {
		err = fmt.Errorf("run of %s: %w: not a CAR of it", root, ErrNoRuns)
	}
	return err
}

// section reads the CID and the block of a section. Both are valid until the next call.
func (rr *runReader) section() (name, block []byte, err error) {
	n, err := rr.length()
	if err != nil {
		return nil, nil, err
	}
	if n < car.CIDLen || n > car.CIDLen+cas.MaxBlock {
		return nil, nil, fmt.Errorf("%w: a section of %d bytes", ErrNoRuns, n)
	}
	b, err := rr.consume(n)
	if err != nil {
		return nil, nil, err
	}
	return b[:car.CIDLen], b[car.CIDLen:], nil
}

// length reads the length of a section.
func (rr *runReader) length() (int, error) {
	for have := 1; ; have++ {
		if err := rr.fill(have); err != nil {
			return 0, err
		}
		n, k := car.ParseLength(rr.buf.bytes[rr.at : rr.at+have])
		if k < 0 {
			return 0, fmt.Errorf("%w: a section without a length", ErrNoRuns)
		}
		if k > 0 {
			rr.at += k
			return n, nil
		}
	}
}

// consume consumes n bytes.
func (rr *runReader) consume(n int) ([]byte, error) {
	if err := rr.fill(n); err != nil {
		return nil, err
	}
	b := rr.buf.bytes[rr.at : rr.at+n]
	rr.at += n
	return b, nil
}

// fill reads until at least n bytes are in the buffer. The buffer grows only with received bytes.
func (rr *runReader) fill(n int) error {
	for rr.end-rr.at < n {
		if rr.at+n > len(rr.buf.bytes) {
			rr.makeRoom(n)
		}
		k, err := rr.body.Read(rr.buf.bytes[rr.end:])
		rr.end += k
		rr.total += k
		if err != nil && rr.end-rr.at < n {
			return &connError{err}
		}
		rr.watchdog.progress(rr.total)
	}
	return nil
}

// makeRoom moves the unconsumed bytes to the front of the buffer, or of another buffer while leaves of
// this one are retained. It doubles a full buffer, up to n bytes.
func (rr *runReader) makeRoom(n int) {
	old, unread := rr.buf, rr.buf.bytes[rr.at:rr.end]
	if old.refs.Load() > 1 {
		rr.buf = newSharedBuffer()
		defer old.release()
	}
	if len(unread) >= len(rr.buf.bytes) {
		rr.buf.bytes = make([]byte, min(2*len(unread), n))
	}
	rr.end = copy(rr.buf.bytes, unread)
	rr.at = 0
}
