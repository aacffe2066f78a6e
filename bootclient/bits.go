package bootclient

import (
	"encoding/binary"
	"math/bits"
)

// A set is a set of leaves of one artifact by their index, one bit each: the first leaf
// is the highest bit of the first word, as it is in the bitmaps of neighbours.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

// fullSet has all n leaves.
func fullSet(n int) set {
	s := newSet(n)
	for i := range s {
		s[i] = ^uint64(0)
	}
	if n%64 != 0 {
		s[len(s)-1] <<= 64 - n%64
	}
	return s
}

// setOf reads a neighbour's bitmap, whose length was checked.
func setOf(n int, bitmap []byte) set {
	s := newSet(n)
	padded := append(make([]byte, 0, 8*len(s)), bitmap...)[:8*len(s)]
	for i := range s {
		s[i] = binary.BigEndian.Uint64(padded[8*i:])
	}
	return s
}

func bit(i int) (word int, mask uint64) { return i / 64, 1 << (63 - i%64) }

func (s set) has(i int) bool {
	w, m := bit(i)
	return s[w]&m != 0
}

func (s set) add(i int) {
	w, m := bit(i)
	s[w] |= m
}

func (s set) remove(i int) {
	w, m := bit(i)
	s[w] &^= m
}

// next is the first member from i on, -1 when there is none.
func (s set) next(i int) int {
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

func (s set) count() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// contains reports whether every member of other is one of s.
func (s set) contains(other set) bool {
	for i := range s {
		if other[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

// join adds the members of other, which may be nil.
func (s set) join(other set) {
	for i := range other {
		s[i] |= other[i]
	}
}

// without removes the members of other, which may be nil.
func (s set) without(other set) {
	for i := range other {
		s[i] &^= other[i]
	}
}
