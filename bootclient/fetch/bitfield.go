package fetch

import (
	"encoding/binary"
	"math/bits"
)

// A bitfield is a set of leaves of one artifact, one bit for each index: the first leaf is
// the highest bit of the first word, as in the bitfields that peers send (BEP 3).
type bitfield []uint64

func newBitfield(n int) bitfield { return make(bitfield, (n+63)/64) }

// fullBitfield has all n bits set.
func fullBitfield(n int) bitfield {
	s := newBitfield(n)
	for i := range s {
		s[i] = ^uint64(0)
	}
	if n%64 != 0 {
		s[len(s)-1] <<= 64 - n%64
	}
	return s
}

// bitfieldOf decodes a peer's bitfield, whose length was checked.
func bitfieldOf(n int, bitmap []byte) bitfield {
	s := newBitfield(n)
	padded := append(make([]byte, 0, 8*len(s)), bitmap...)[:8*len(s)]
	for i := range s {
		s[i] = binary.BigEndian.Uint64(padded[8*i:])
	}
	return s
}

func bit(i int) (word int, mask uint64) { return i / 64, 1 << (63 - i%64) }

func (s bitfield) has(i int) bool {
	w, m := bit(i)
	return s[w]&m != 0
}

func (s bitfield) add(i int) {
	w, m := bit(i)
	s[w] |= m
}

func (s bitfield) remove(i int) {
	w, m := bit(i)
	s[w] &^= m
}

// next is the first set bit from i on, -1 when there is none.
func (s bitfield) next(i int) int {
	w := i / 64
	if w >= len(s) {
		return -1
	}
	word := s[w] & (^uint64(0) >> (i % 64))
	for word == 0 {
		if w++; w == len(s) {
			return -1
		}
		word = s[w]
	}
	return 64*w + bits.LeadingZeros64(word)
}

func (s bitfield) count() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// contains reports whether every bit of other is set in s.
func (s bitfield) contains(other bitfield) bool {
	for i := range s {
		if other[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

// join sets the bits of other, which may be nil.
func (s bitfield) join(other bitfield) {
	for i := range other {
		s[i] |= other[i]
	}
}

// without clears the bits of other, which may be nil.
func (s bitfield) without(other bitfield) {
	for i := range other {
		s[i] &^= other[i]
	}
}
