package cas

import (
	"errors"
	"io"

	cdc "github.com/PlakarKorp/go-cdc-chunkers"
)

// minSegment is the least that is read and cut at a time, in bytes.
const minSegment = 1 << 20

// errCutAll is the end of a cutter.
var errCutAll = errors.New("cut all")

// A segment is a run of whole leaves in one buffer.
type segment struct {
	buf    []byte
	leaves [][]byte // parts of buf, in file order
}

// A cutter reads a file as segments. The leaves of each are the same however the
// reader deals out its bytes.
type cutter struct {
	r     io.Reader
	kind  chunker
	carry []byte // read, but its cut is not known yet
	ended bool
	any   bool // a leaf was cut
}

func newCutter(r io.Reader, k chunker) *cutter { return &cutter{r: r, kind: k} }

// segmentSize is the length of the buffers that next wants.
func (c *cutter) segmentSize() int {
	if c.kind.algorithm != "" {
		return max(minSegment, 8*c.kind.max) // at most one leaf in eight is copied over
	}
	return (minSegment + c.kind.max - 1) / c.kind.max * c.kind.max
}

// next fills s.buf and cuts it. After the last segment it returns errCutAll; an empty
// file is one segment with one empty leaf.
func (c *cutter) next(s *segment) error {
	s.leaves = s.leaves[:0]
	if c.ended {
		return errCutAll
	}
	n := copy(s.buf, c.carry)
	n, err := c.fill(s.buf, n)
	if err != nil {
		return err
	}
	used, err := c.cut(s, s.buf[:n])
	if err != nil {
		return err
	}
	c.carry = append(c.carry[:0], s.buf[used:n]...)
	if c.ended && !c.any && len(s.leaves) == 0 {
		s.leaves = append(s.leaves, s.buf[:0])
	}
	if len(s.leaves) == 0 {
		return errCutAll
	}
	c.any = true
	return nil
}

// fill reads until buf is full or r has ended. Only a plain io.EOF is an end: a reader
// that says io.ErrUnexpectedEOF lost bytes, which io.ReadFull would hide.
func (c *cutter) fill(buf []byte, n int) (int, error) {
	for idle := 0; n < len(buf); {
		m, err := c.r.Read(buf[n:])
		n += m
		if err == io.EOF {
			c.ended = true
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if m > 0 {
			idle = 0
		} else if idle++; idle == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// cut appends the leaves of data to s and returns the bytes that they take. The
// rest is too short to know where it ends, and there is more to read.
func (c *cutter) cut(s *segment, data []byte) (int, error) {
	cutOne, err := c.one(data)
	if err != nil {
		return 0, err
	}
	used := 0
	for used < len(data) && (c.ended || len(data)-used >= c.kind.max) {
		n, err := cutOne(used)
		if err != nil {
			return 0, err
		}
		s.leaves = append(s.leaves, data[used:used+n:used+n])
		used += n
	}
	return used, nil
}

// one returns a function that says how long the leaf at an offset of data is; it
// is called for each leaf in turn.
func (c *cutter) one(data []byte) (func(at int) (int, error), error) {
	if c.kind.algorithm == "" {
		return func(at int) (int, error) { return min(c.kind.max, len(data)-at), nil }, nil
	}
	buf := data
	if len(buf) < c.kind.max {
		buf = make([]byte, c.kind.max) // the library wants room for a whole leaf
	}
	lib, err := cdc.NewChunkerBuffer(c.kind.algorithm, &inPlace{data: data}, c.kind.options(), buf)
	if err != nil {
		return nil, err
	}
	return func(int) (int, error) {
		leaf, err := lib.Next()
		if len(leaf) == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		return len(leaf), nil
	}, nil
}

// inPlace hands data, in one read, to a reader whose buffer is data itself: nothing is
// copied. The io.EOF that comes with it keeps the reader from making room for more by
// moving what is there.
type inPlace struct{ data []byte }

func (p *inPlace) Read(b []byte) (int, error) {
	if len(b) < len(p.data) {
		return 0, io.ErrShortBuffer
	}
	n := len(p.data)
	if n > 0 && &b[0] != &p.data[0] {
		copy(b, p.data)
	}
	p.data = nil
	return n, io.EOF
}
