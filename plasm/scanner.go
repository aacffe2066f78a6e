package plasm

import "fmt"

// A scanner reads the binary format of WebAssembly (Core 2.0, chapter 5) without allocating. After its
// first error, every read returns zeros.
type scanner struct {
	rest []byte
	err  error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.rest = nil
	}
}

// bound fails if n is larger than the limit of a job.
func (s *scanner) bound(what string, n, most int64) {
	if n > most {
		s.fail("%w: %d %s, the limit is %d", errBounds, n, what, most)
	}
}

// each reads a count and that many entries, and returns the count. It refuses a count that is larger
// than the number of bytes left.
func (s *scanner) each(what string, most int64, entry func(*scanner)) int64 {
	n := int64(s.u32())
	s.bound(what, n, most)
	if n > int64(len(s.rest)) {
		s.fail("%d %s in %d bytes", n, what, len(s.rest))
	}
	for i := int64(0); i < n && s.err == nil; i++ {
		entry(s)
	}
	return n
}

func (s *scanner) byte() byte {
	if len(s.rest) == 0 {
		s.fail("cut off")
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func (s *scanner) take(n uint32, what string) []byte {
	if int64(n) > int64(len(s.rest)) {
		s.fail("a %s is cut off", what)
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

func (s *scanner) skip(n uint32) { s.take(n, "constant") }

// u32 reads an unsigned LEB128 number of at most five bytes.
func (s *scanner) u32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b := s.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 && v < 1<<32 {
			return uint32(v)
		}
	}
	s.fail("a number is longer than 32 bits")
	return 0
}

// leb skips a signed LEB128 number of at most size bytes.
func (s *scanner) leb(size int) {
	for range size {
		if s.byte() < 0x80 {
			return
		}
	}
	s.fail("a number is too long")
}

func (s *scanner) name() {
	n := s.u32()
	s.bound("bytes of a name", int64(n), maxName)
	s.take(n, "name")
}

// limits reads the limits of a table or memory and returns the minimum.
func (s *scanner) limits() int64 {
	flag := s.byte()
	least := s.u32()
	if flag&1 != 0 {
		s.u32()
	}
	return int64(least)
}

func (s *scanner) funcType() {
	if form := s.byte(); form != 0x60 {
		s.fail("unknown form of type %#x", form)
	}
	s.each("parameters of a type", maxValues, func(s *scanner) { s.byte() })
	s.each("results of a type", maxValues, func(s *scanner) { s.byte() })
}

func (s *scanner) global() {
	s.byte()
	s.byte()
	s.code(0)
}

func (s *scanner) export() {
	s.name()
	s.byte()
	s.u32()
}

// data reads one data segment: 0 active, 1 passive, 2 active with an explicit memory.
func (s *scanner) data() {
	kind := s.u32()
	if kind > 2 {
		s.fail("unknown kind of data segment %d", kind)
	}
	if kind == 2 {
		s.u32()
	}
	if kind != 1 {
		s.code(0)
	}
	s.take(s.u32(), "data segment")
}
