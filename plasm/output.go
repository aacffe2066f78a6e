package plasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// errOutput is the cause of a context that a flood ended.
var errOutput = errors.New("the job wrote more than its output limit")

// output is a job's stdout and stderr, in the order of writing: counted, hashed
// and shown, never kept. The first byte over the limit ends the job.
type output struct {
	limit     int64
	length    int64
	truncated bool
	hash      hash.Hash
	w         io.Writer // gets what is within the limit; its errors do not stop the job
	end       context.CancelCauseFunc
}

func newOutput(limit int64, w io.Writer, end context.CancelCauseFunc) *output {
	return &output{limit: limit, hash: sha256.New(), w: w, end: end}
}

// sum says what was written.
func (o *output) sum() Output {
	return Output{hex.EncodeToString(o.hash.Sum(nil)), o.length, o.truncated}
}

// Write implements io.Writer for the guest. The guest is one thread.
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

// console shows a job's output a line at a time. Each line carries a mark, and
// what could steer a terminal is escaped, so that no job can write a line that
// looks like ours.
type console struct {
	w    io.Writer
	line []byte
}

const (
	lineMark = "job: "
	lineMax  = 4096 // bytes after which a line is broken
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

// flush ends the line that is being written.
func (c *console) flush() {
	line := append([]byte(lineMark), escape(c.line)...)
	// A console that is gone is no reason to stop the job: the receipt still says
	// what it wrote.
	_, _ = c.w.Write(append(line, '\n'))
	c.line = c.line[:0]
}

// close shows a last line that had no newline.
func (c *console) close() {
	if len(c.line) > 0 {
		c.flush()
	}
}

// escape replaces everything that is not printable, tabs aside.
func escape(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, `\x`...)
			out = append(out, strconv.FormatUint(uint64(line[0])+0x100, 16)[1:]...)
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
