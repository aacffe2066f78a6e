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
	"unicode"
	"unicode/utf8"
)

// errOutput is the cause with which output above the limit ends a context.
var errOutput = errors.New("the job wrote more than its output limit")

// output counts, hashes and forwards a job's stdout and stderr, in the order of writing. It stores
// nothing. The first byte above the limit ends the job.
type output struct {
	limit     int64
	length    int64
	truncated bool
	hash      hash.Hash
	w         io.Writer // gets the output within the limit; its errors do not stop the job
	end       context.CancelCauseFunc
}

func newOutput(limit int64, w io.Writer, end context.CancelCauseFunc) *output {
	return &output{limit: limit, hash: sha256.New(), w: w, end: end}
}

func (o *output) sum() Output {
	return Output{hex.EncodeToString(o.hash.Sum(nil)), o.length, o.truncated}
}

// Write implements io.Writer for the guest, which has one thread.
func (o *output) Write(p []byte) (int, error) {
	keep := p[:min(int64(len(p)), o.limit-o.length)]
	o.length += int64(len(keep))
	o.hash.Write(keep)
	_, _ = o.w.Write(keep)
	if len(keep) < len(p) {
		o.truncated = true
		o.end(errOutput)
		return len(keep), errOutput
	}
	return len(p), nil
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
