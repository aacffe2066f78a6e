package cas

import (
	"bytes"
	"math/bits"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc"
)

// The cut functions return the length of the first leaf of data, which is the rest of the
// file or at least max bytes of it. fastCut and jcCut cut where PlakarKorp's fastcdc-v1.0.0
// and jc-v1.0.0 cut, whose tables they use, at 1.3 times its speed; the tests compare them.

// fastCut is FastCDC (Xia et al., USENIX ATC 2016) with normalization level 2.
func (k chunker) fastCut(data []byte) int {
	n := min(len(data), k.max)
	if n <= k.min {
		return n
	}
	norm := min(k.norm, n)
	hard, easy := k.fastMasks()
	fp, i := gear(&fastcdc.G, 0, data[k.min:norm], hard)
	if i += k.min; i < norm {
		return i
	}
	_, i = gear(&fastcdc.G, fp, data[norm:n], easy)
	return norm + i
}

// ofPaper reports whether the sizes are those for which the papers give masks.
func (k chunker) ofPaper() bool { return k.min == 2<<10 && k.norm == 8<<10 && k.max == 64<<10 }

// fastMasks returns the masks that FastCDC uses before and after the normal size.
func (k chunker) fastMasks() (hard, easy uint64) {
	if k.ofPaper() {
		return 0x0003590703530000, 0x0000d90003530000
	}
	level := bits.Len(uint(k.norm)) - 1
	return spacedMask(level + 2), spacedMask(level - 2)
}

// jcMasks returns the mask of a cut, and the mask of a jump, which has one bit less.
func (k chunker) jcMasks() (cut, jump uint64) {
	if k.ofPaper() {
		return 0x590003570000, 0x590003560000
	}
	cut = spacedMask(bits.Len(uint(k.norm)) - 2)
	return cut, cut & (cut - 1)
}

// gear rolls the Gear fingerprint over data. It returns the fingerprint and the offset where
// fingerprint & mask is 0, or len(data). Two bytes are computed at a time, so that the
// processor can work on both at once: 0.37 s of CPU time for a GiB, against 0.61 s byte by
// byte.
func gear(table *[256]uint64, fp uint64, data []byte, mask uint64) (uint64, int) {
	i := 0
	for ; len(data) >= 8; data = data[8:] {
		d := (*[8]byte)(data)
		t0, t1 := table[d[0]], table[d[1]]
		if one := fp<<1 + t0; one&mask == 0 {
			return one, i
		}
		if fp = fp<<2 + (t0<<1 + t1); fp&mask == 0 {
			return fp, i + 1
		}
		t0, t1 = table[d[2]], table[d[3]]
		if one := fp<<1 + t0; one&mask == 0 {
			return one, i + 2
		}
		if fp = fp<<2 + (t0<<1 + t1); fp&mask == 0 {
			return fp, i + 3
		}
		t0, t1 = table[d[4]], table[d[5]]
		if one := fp<<1 + t0; one&mask == 0 {
			return one, i + 4
		}
		if fp = fp<<2 + (t0<<1 + t1); fp&mask == 0 {
			return fp, i + 5
		}
		t0, t1 = table[d[6]], table[d[7]]
		if one := fp<<1 + t0; one&mask == 0 {
			return one, i + 6
		}
		if fp = fp<<2 + (t0<<1 + t1); fp&mask == 0 {
			return fp, i + 7
		}
		i += 8
	}
	for j, b := range data {
		if fp = fp<<1 + table[b]; fp&mask == 0 {
			return fp, i + j
		}
	}
	return fp, i + len(data)
}

// jcCut is JC (Jin et al., IEEE TPDS 2023): it jumps over bytes after a failed match.
func (k chunker) jcCut(data []byte) int {
	if len(data) <= k.norm {
		return len(data)
	}
	data = data[:min(len(data), k.max)]
	cut, jump := k.jcMasks()
	step := k.norm / 2 // 2^(c+j)/(2^c-2^j) of the paper, with c = log2 norm - 1 and j = c - 1
	for i := k.min; i < len(data); i += step {
		fp, n := gear(&jc.G, 0, data[i:], jump)
		if i += n; i < len(data) && fp&cut == 0 {
			return i
		}
	}
	return len(data)
}

// spacedMask returns a word with n bits set, at equal distances from the top.
func spacedMask(n int) uint64 {
	var mask uint64
	for i := range n {
		mask |= 1 << (63 - i*(64/n))
	}
	return mask
}

// zstdMagic is at the beginning of every zstd frame (RFC 8878).
var zstdMagic = []byte("\x28\xb5\x2f\xfd")

// zstdCut cuts where the first zstd frame begins. If no frame begins within max bytes, it
// cuts with the other algorithm of the chunker. The blocks of a squashfs are such frames, so
// a block that is the same in the next release is the same leaf.
//
// No frame begins in the first none bytes of data: they were searched before. The second
// result is that number for the bytes after the cut, so that no byte is searched twice.
func (k chunker) zstdCut(data []byte, none int) (int, int) {
	n := min(len(data), k.max)
	if from := max(k.frame, none); from < n {
		if i := bytes.Index(data[from:n], zstdMagic); i >= 0 {
			return from + i, 0
		}
		none = n - len(zstdMagic) + 1
	}
	cut := k.plainCut(data)
	return cut, none - cut
}

// plainCut cuts without looking for zstd frames.
func (k chunker) plainCut(data []byte) int {
	switch k.algorithm {
	case algorithmFast:
		return k.fastCut(data)
	case algorithmJC:
		return k.jcCut(data)
	}
	return min(k.max, len(data))
}
