package plasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"
	"unicode"
	"unicode/utf8"
)

// errOutput is the cause with which output above the limit ends a context.
var errOutput = errors.New("the job wrote more than its output limit")

// output counts, hashes and forwards a job's stdout and stderr. It stores nothing. The first byte above
// the limit, which is for both together, ends the job.
type output struct {
	both      digest // in the order of writing
	limit     int64
	truncated bool
	stdout    channel
	stderr    channel
	end       context.CancelCauseFunc
}

func newOutput(limit int64, out IO, end context.CancelCauseFunc) *output {
	o := &output{both: newDigest(), limit: limit, end: end}
	o.stdout = channel{own: newDigest(), all: o, w: orDiscard(out.Stdout)}
	o.stderr = channel{own: newDigest(), all: o, w: orDiscard(out.Stderr)}
	return o
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// into adds the digests to an outcome.
func (o *output) into(to *Outcome) {
	to.Output = o.both.sum(o.truncated)
	to.Stdout = o.stdout.own.sum(o.stdout.truncated)
	to.Stderr = o.stderr.own.sum(o.stderr.truncated)
}

// A digest counts and hashes bytes.
type digest struct {
	length int64
	hash   hash.Hash
}

func newDigest() digest { return digest{hash: sha256.New()} }

// Write implements io.Writer and never fails.
func (d *digest) Write(p []byte) (int, error) {
	d.length += int64(len(p))
	return d.hash.Write(p)
}

func (d *digest) sum(truncated bool) Output {
	return Output{hex.EncodeToString(d.hash.Sum(nil)), d.length, truncated}
}

// A channel is stdout or stderr of a job.
type channel struct {
	own       digest
	truncated bool
	all       *output
	w         io.Writer // gets the output within the limit; its errors do not stop the job
}

// Write implements io.Writer for the guest, which has one thread.
func (c *channel) Write(p []byte) (int, error) {
	o := c.all
	keep := p[:min(int64(len(p)), o.limit-o.both.length)]
	_, _ = o.both.Write(keep)
	_, _ = c.own.Write(keep)
	_, _ = c.w.Write(keep)
	if len(keep) < len(p) {
		o.truncated, c.truncated = true, true
		o.end(errOutput)
		return len(keep), errOutput
	}
	return len(p), nil
}

// Marked prints a job's output line by line on a console that it shares with others. Each line begins
// with "job: ", and control characters are escaped, so that a job cannot imitate a line of plasmd. Close
// prints a last line that has no newline. It is for stdout and stderr of one job.
type Marked struct{ console }

// NewMarked returns a Marked that prints on w.
func NewMarked(w io.Writer) *Marked { return &Marked{console{w: w}} }

// Close prints a last line without a newline. It does not close the console.
func (m *Marked) Close() error {
	m.close()
	return nil
}

// console prints a job's output line by line. Each line begins with lineMark, and control characters are
// escaped, so that a job cannot imitate a line of plasmd.
type console struct {
	w    io.Writer
	line []byte
}

const (
	lineMark = "job: "
	lineMax  = 4096 // bytes; longer lines are split
)

// Write implements io.Writer and never fails.
func (c *console) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 {
		head, rest, ended := bytes.Cut(p, []byte("\n"))
		take := min(len(head), lineMax-len(c.line))
		c.line = append(c.line, head[:take]...)
		switch {
		case take < len(head):
			c.flush()
			p = p[take:]
		case ended:
			c.flush()
			p = rest
		default:
			return size, nil
		}
	}
	return size, nil
}

func (c *console) flush() {
	line := append([]byte(lineMark), escape(c.line)...)
	// An error of the console does not stop the job: the receipt has the digest of the output.
	_, _ = c.w.Write(append(line, '\n'))
	c.line = c.line[:0]
}

// close prints a last line without a newline.
func (c *console) close() {
	if len(c.line) > 0 {
		c.flush()
	}
}

// escape replaces characters that are not printable, except tabs.
func escape(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, line[0])
		case r == '\t' || unicode.IsPrint(r):
			out = append(out, line[:size]...)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			out = append(out, quoted[1:len(quoted)-1]...)
		}
		line = line[size:]
	}
	return out
}

// A lockedDigest is a digest that one goroutine writes and another reads.
type lockedDigest struct {
	mu     sync.Mutex
	digest digest
}

func (d *lockedDigest) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.digest.Write(p)
}

func (d *lockedDigest) sum() Output {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.digest.sum(false)
}
