package cas

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc"
)

// The cut functions say how long the first leaf of data is. data is the rest of the
// file or at least max bytes of it. fastCut and jcCut give the cuts of PlakarKorp's
// fastcdc-v1.0.0 and jc-v1.0.0, whose tables they use, at 1.3 times its speed; the
// tests compare them.

// fastCut is FastCDC (Xia et al., USENIX ATC 2016) with normalization level 2.
func (k chunker) fastCut(data []byte) int {
	n := min(len(data), k.max)
	if n <= k.min {
		return n
	}
	norm := min(k.norm, n)
	hard, easy := k.fastMasks()
	fp, i := gear(0, data[k.min:norm], hard)
	if i += k.min; i < norm {
		return i
	}
	_, i = gear(fp, data[norm:n], easy)
	return norm + i
}

// ofPaper reports whether the sizes are those of the papers, which give masks for them.
func (k chunker) ofPaper() bool { return k.min == 2<<10 && k.norm == 8<<10 && k.max == 64<<10 }

// fastMasks are the masks before and after the normal size.
func (k chunker) fastMasks() (hard, easy uint64) {
	if k.ofPaper() {
		return 0x0003590703530000, 0x0000d90003530000
	}
	level := bits.Len(uint(k.norm)) - 1
	return spacedMask(level + 2), spacedMask(level - 2)
}

// jcMasks are the mask of a cut and the one, a bit weaker, of a jump.
func (k chunker) jcMasks() (cut, jump uint64) {
	if k.ofPaper() {
		return 0x590003570000, 0x590003560000
	}
	cut = spacedMask(bits.Len(uint(k.norm)) - 2)
	return cut, cut & (cut - 1)
}

// gear rolls the fingerprint over data and returns it with the offset at which no bit of
// mask is left, or len(data).
func gear(fp uint64, data []byte, mask uint64) (uint64, int) {
	table := &fastcdc.G
	i := 0
	for ; i+8 <= len(data); i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		if fp = fp<<1 + table[byte(w)]; fp&mask == 0 {
			return fp, i
		}
		if fp = fp<<1 + table[byte(w>>8)]; fp&mask == 0 {
			return fp, i + 1
		}
		if fp = fp<<1 + table[byte(w>>16)]; fp&mask == 0 {
			return fp, i + 2
		}
		if fp = fp<<1 + table[byte(w>>24)]; fp&mask == 0 {
			return fp, i + 3
		}
		if fp = fp<<1 + table[byte(w>>32)]; fp&mask == 0 {
			return fp, i + 4
		}
		if fp = fp<<1 + table[byte(w>>40)]; fp&mask == 0 {
			return fp, i + 5
		}
		if fp = fp<<1 + table[byte(w>>48)]; fp&mask == 0 {
			return fp, i + 6
		}
		if fp = fp<<1 + table[byte(w>>56)]; fp&mask == 0 {
			return fp, i + 7
		}
	}
	for ; i < len(data); i++ {
		if fp = fp<<1 + table[data[i]]; fp&mask == 0 {
			return fp, i
		}
	}
	return fp, i
}

// jcCut is JC (Jin et al., IEEE TPDS 2023): it jumps over bytes that cannot hold a cut.
func (k chunker) jcCut(data []byte) int {
	if len(data) <= k.norm {
		return len(data)
	}
	data = data[:min(len(data), k.max)]
	table := &jc.G
	cut, jump := k.jcMasks()
	step := k.norm / 2 // 2^(c+j)/(2^c-2^j) of the paper, with c = log2 norm - 1 and j = c - 1
	fp, i := uint64(0), k.min
	for i < len(data) {
		fp = fp<<1 + table[data[i]]
		if fp&jump != 0 {
			i++
			continue
		}
		if fp&cut == 0 {
			return i
		}
		fp, i = 0, i+step
	}
	return len(data)
}

// spacedMask spreads n bits over a word, from the top.
func spacedMask(n int) uint64 {
	var mask uint64
	for i := range n {
		mask |= 1 << (63 - i*(64/n))
	}
	return mask
}

// zstdMagic begins every frame of zstd (RFC 8878).
var zstdMagic = []byte("\x28\xb5\x2f\xfd")

// zstdCut ends a leaf where a zstd frame begins, and cuts as the rest of the name says
// where none begins within max. The blocks of a squashfs are such frames: a
// block that is the same in the next release is then the same leaf.
func (k chunker) zstdCut(data []byte) int {
	n := min(len(data), k.max)
	if n > k.frame {
		if i := bytes.Index(data[k.frame:n], zstdMagic); i >= 0 {
			return k.frame + i
		}
	}
	return k.plainCut(data)
}

// cut is the length of the first leaf of data.
func (k chunker) cut(data []byte) int {
	if k.frame > 0 {
		return k.zstdCut(data)
	}
	return k.plainCut(data)
}

func (k chunker) plainCut(data []byte) int {
	switch k.algorithm {
	case algorithmFast:
		return k.fastCut(data)
	case algorithmJC:
		return k.jcCut(data)
	}
	return min(k.max, len(data))
}
