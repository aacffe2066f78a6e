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

// ErrNoRuns says that a gateway answered a run of blocks with something else, as a
// static web server does, or with other blocks than asked for: it can still be asked
// for single blocks.
var ErrNoRuns = errors.New("gives no runs of blocks")

const (
	runNodes = 64 // inner nodes that may come between the leaves of a run
)

// Run asks for leaves of the file root in one request, and calls take with the index and
// the bytes of each, in order, as soon as it has arrived and hashes to its name. The bytes
// are take's until it returns, and longer if it keeps them. No two leaves may have the same
// name. They are neighbours in the file; where TakesGaps there may be up to MaxGaps gaps
// between them.
//
// The inner nodes above them were read before, and our own gateways leave them out; see
// RepeatsNodes for others.
//
// An error ends the run; leaves that were taken before stay good. It wraps
// cas.ErrCorrupt for a block that does not hash to its name, ErrNoRuns when the
// answer is no such run, and those of Block. Errors of take are returned as they are.
func (c *Client) Run(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take func(i int, leaf Loan) error) error {
	path := fmt.Sprintf("/ipfs/%s?format=car&dag-scope=entity&entity-bytes=%s&nodes=n", root, ranges(leaves))
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

// ranges writes where leaves are in their file, those that touch as one range.
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

// runStatus returns ErrNoRuns for every refusal of a run, except the answers of a busy
// gateway and of one that does not have the blocks: single blocks may be served all the same.
func runStatus(resp *http.Response) error {
	err := status(resp)
	var busy *BusyError
	if err == nil || errors.As(err, &busy) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("status %d: %w", resp.StatusCode, ErrNoRuns)
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

// A Loan is bytes that are good for a while.
type Loan struct {
	Data []byte
	buf  *buffer // that they are in, and that is used again; nil for none
}

// Keep asks for the bytes until Release, and reports whether they may be kept: only those
// of a run, and of maxKept buffers.
func (l Loan) Keep() bool { return l.buf != nil && l.buf.keep() }

// Release gives back what was kept.
func (l Loan) Release() { l.buf.release() }

const (
	runBuffer = 512 << 10 // bytes of the buffer that a run is read into: a few leaves in one read
	maxKept   = 20        // buffers of which something is kept
)

// A buffer is filled by one reader, and goes back to the pool when nobody uses it.
type buffer struct {
	bytes []byte
	kept  bool // counted in kept
	users atomic.Int32
}

var (
	buffers = sync.Pool{New: func() any { return &buffer{bytes: make([]byte, runBuffer)} }}
	kept    atomic.Int32 // buffers of which something is kept
)

func borrow() *buffer {
	b := buffers.Get().(*buffer)
	b.users.Store(1)
	return b
}

// keep is called by the reader only.
func (b *buffer) keep() bool {
	if !b.kept {
		if kept.Add(1) > maxKept {
			kept.Add(-1)
			return false
		}
		b.kept = true
	}
	b.users.Add(1)
	return true
}

func (b *buffer) release() {
	if b.users.Add(-1) > 0 {
		return
	}
	if b.kept {
		b.kept = false
		kept.Add(-1)
	}
	buffers.Put(b)
}

// A runReader reads sections of a CARv1 and hands them out where they came in: what waits
// is buf.bytes[at:end].
type runReader struct {
	body    io.Reader
	watch   *watch
	buf     *buffer
	at, end int
	total   int
}

// RepeatsNodes reports whether the gateway sent inner nodes in a run, as one does that
// follows the specification to the letter: short runs are not worth it then.
func (c *Client) RepeatsNodes() bool { return c.repeats.Load() }

// MaxGaps is how many gaps there may be between the leaves of a run.
const MaxGaps = maxSpans - 1

// TakesGaps reports whether the gateway left inner nodes out of a run: it is one of ours,
// and may be asked for leaves with gaps between them.
func (c *Client) TakesGaps() bool { return c.bare.Load() && !c.repeats.Load() }

func (c *Client) readRun(body io.Reader, root cid.Cid, leaves []cas.Leaf, watch *watch, take func(i int, leaf Loan) error) error {
	rr := &runReader{body: body, watch: watch, buf: borrow()}
	defer func() { rr.buf.release() }()
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
			if err := take(i, Loan{block, rr.buf}); err != nil {
				return err
			}
			i++
		case name[1] != cid.DagProtobuf || nodes == runNodes:
			return fmt.Errorf("run of %s: %w: block %x where %s is due", root, ErrNoRuns, name, leaves[i].CID)
		default: // a node above the leaves, which was read and checked before
			nodes++
			c.repeats.Store(true)
		}
	}
	if nodes == 0 && !leaves[0].CID.Equals(root) {
		c.bare.Store(true)
	}
	rr.need(1) // mostly the end, which lets the connection be used again
	return nil
}

// header reads the CARv1 header; it must be the one of a single root.
func (rr *runReader) header(root cid.Cid) error {
	want := car.AppendHeader(nil, root.KeyString())
	n, err := rr.length()
	if lost := (*lostError)(nil); errors.As(err, &lost) && lost.err == io.EOF {
		return fmt.Errorf("run of %s: %w: an empty answer", root, ErrNoRuns)
	}
	if err != nil {
		return err
	}
	if length, k := car.ParseLength(want); n != length {
		return fmt.Errorf("run of %s: %w: no CAR of it", root, ErrNoRuns)
	} else {
		want = want[k:]
	}
	got, err := rr.next(len(want))
	if err != nil {
		return err
	}
	if string(got) != string(want) {
		return fmt.Errorf("run of %s: %w: no CAR of it", root, ErrNoRuns)
	}
	return nil
}

// section reads the name of a block, which is as long as every CID that we read, and the
// block. Both are good until the next call.
func (rr *runReader) section() (name, block []byte, err error) {
	n, err := rr.length()
	if err != nil {
		return nil, nil, err
	}
	if n < car.CIDLen || n > car.CIDLen+cas.MaxBlock {
		return nil, nil, fmt.Errorf("%w: a section of %d bytes", ErrNoRuns, n)
	}
	b, err := rr.next(n)
	if err != nil {
		return nil, nil, err
	}
	return b[:car.CIDLen], b[car.CIDLen:], nil
}

// length reads the length of a section or of the header.
func (rr *runReader) length() (int, error) {
	for have := 1; ; have++ {
		if err := rr.need(have); err != nil {
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

// next takes n bytes.
func (rr *runReader) next(n int) ([]byte, error) {
	if err := rr.need(n); err != nil {
		return nil, err
	}
	b := rr.buf.bytes[rr.at : rr.at+n]
	rr.at += n
	return b, nil
}

// need reads until n bytes wait, and whatever else has come in. Only a block that arrives
// makes the buffer grow.
func (rr *runReader) need(n int) error {
	for rr.end-rr.at < n {
		if rr.at+n > len(rr.buf.bytes) {
			rr.room(n)
		}
		k, err := rr.body.Read(rr.buf.bytes[rr.end:])
		rr.end += k
		rr.total += k
		if err != nil && rr.end-rr.at < n {
			return &lostError{err}
		}
		rr.watch.progress(rr.total)
	}
	return nil
}

// room moves what waits to the front of the buffer, or of another one while somebody keeps
// some of this. One that is full is doubled, up to n.
func (rr *runReader) room(n int) {
	old, waits := rr.buf, rr.buf.bytes[rr.at:rr.end]
	if old.users.Load() > 1 {
		rr.buf = borrow()
		defer old.release()
	}
	if len(waits) >= len(rr.buf.bytes) {
		rr.buf.bytes = make([]byte, min(2*len(waits), n))
	}
	rr.end = copy(rr.buf.bytes, waits)
	rr.at = 0
}
