package cas

import "io"

// minSegment is the smallest number of bytes that is read and cut at a time.
const minSegment = 1 << 20

// A segment is a part of a file that AddFile reads, cuts, hashes and puts. Its first leaf
// begins in the rest of the segment before it, which that one could not cut yet.
type segment struct {
	buf    []byte   // the rest of the segment before it, then read
	read   []byte   // the bytes that were read; part of buf
	last   bool     // the end of the file
	leaves [][]byte // parts of buf, in file order
}

// segmentSize is the number of bytes that are read into a segment. It is many leaves, so
// that the rest, which is copied into the next segment, is a small part of it.
func (k chunker) segmentSize() int {
	if k.algorithm == "" {
		return (minSegment + k.max - 1) / k.max * k.max
	}
	return max(minSegment, 4*k.max)
}

func (k chunker) newSegment() *segment { return &segment{buf: make([]byte, k.max+k.segmentSize())} }

// fill reads until the segment is full or r ends. Only io.EOF itself is the end: a reader
// that returns io.ErrUnexpectedEOF lost bytes, which io.ReadFull would hide.
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

// A cutter cuts the segments of a file one after another. The leaves do not depend on where
// one segment ends and the next begins.
type cutter struct {
	kind chunker
	rest []byte // bytes at the end of the last segment that are not cut yet
	none int    // no zstd frame begins in the first none bytes that are not cut yet
	any  bool   // a leaf was cut
}

// cut fills s.leaves. An empty file has one empty leaf.
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

// next returns the length of the first leaf of data.
func (c *cutter) next(data []byte) (n int) {
	if c.kind.frame == 0 {
		return c.kind.plainCut(data)
	}
	n, c.none = c.kind.zstdCut(data, c.none)
	return n
}
