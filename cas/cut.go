package cas

import "io"

// minSegment is the least that is read and cut at a time, in bytes.
const minSegment = 1 << 20

// A segment is a part of a file on its way through AddFile: read, cut, hashed, put. Its
// leaves begin with what the segment before it could not cut yet.
type segment struct {
	buf    []byte   // room for such a rest, and then for what is read
	read   []byte   // part of buf
	last   bool     // nothing follows
	leaves [][]byte // parts of buf, in file order
}

// segmentSize is how much of a file is read into a segment: many leaves, so that the rest
// that is copied into the next one is a small part.
func (k chunker) segmentSize() int {
	if k.algorithm == "" {
		return (minSegment + k.max - 1) / k.max * k.max
	}
	return max(minSegment, 8*k.max)
}

func (k chunker) newSegment() *segment { return &segment{buf: make([]byte, k.max+k.segmentSize())} }

// fill reads until the segment is full or r has ended. Only a plain io.EOF is an end: a
// reader that says io.ErrUnexpectedEOF lost bytes, which io.ReadFull would hide.
func (s *segment) fill(r io.Reader, k chunker) error {
	into := s.buf[k.max:]
	n := 0
	for idle := 0; n < len(into) && !s.last; {
		m, err := r.Read(into[n:])
		n += m
		switch {
		case err == io.EOF:
			s.last = true
		case err != nil:
			return err
		case m > 0:
			idle = 0
		default:
			if idle++; idle == 100 {
				return io.ErrNoProgress
			}
		}
	}
	s.read = into[:n]
	return nil
}

// A cutter cuts the segments of a file one after the other. The leaves are the same
// however the file is dealt out.
type cutter struct {
	kind chunker
	rest []byte // read, but its cut is not known yet
	none int    // no zstd frame begins in the first none bytes of what is to be cut
	any  bool   // a leaf was cut
}

// cut fills s.leaves. An empty file is one empty leaf.
func (c *cutter) cut(s *segment) {
	start := c.kind.max - len(c.rest)
	copy(s.buf[start:], c.rest)
	data := s.buf[start : c.kind.max+len(s.read)]
	s.leaves = s.leaves[:0]
	for len(data) >= c.kind.max || s.last && len(data) > 0 {
		n := c.next(data)
		s.leaves = append(s.leaves, data[:n:n])
		data = data[n:]
	}
	c.rest = append(c.rest[:0], data...)
	c.any = c.any || len(s.leaves) > 0
	if s.last && !c.any {
		s.leaves = append(s.leaves, data)
	}
}

// next is the length of the first leaf of data.
func (c *cutter) next(data []byte) (n int) {
	if c.kind.frame == 0 {
		return c.kind.plainCut(data)
	}
	n, c.none = c.kind.zstdCut(data, c.none)
	return n
}
