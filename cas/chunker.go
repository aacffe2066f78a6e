package cas

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// DefaultChunker cuts a squashfs between its compressed blocks, and any other file into
// leaves of 16 to 256 KiB with a target of 64 KiB. Leaves of that size are small enough that
// the next release shares most of them, and large enough to be hashed and sent fast.
const DefaultChunker = "zstd-4096-jc-v1.0.0-16384-65536-262144"

const (
	algorithmFast = "fastcdc-v1.0.0"
	algorithmJC   = "jc-v1.0.0"

	minCDC     = 64   // bytes; the lower limit of both algorithms
	linksCDC   = 1024 // links per node of a file with content-defined chunks
	linksFixed = 174  // links per node with size-N, as in Kubo
)

// chunker is a parsed chunker name.
type chunker struct {
	algorithm      string // "" for size-N
	min, norm, max int    // bytes; with size-N only max is set
	frame          int    // the smallest leaf that ends where a zstd frame begins, in bytes; 0 without zstd
}

// links is the number of links in an inner node.
func (k chunker) links() int {
	if k.algorithm == "" {
		return linksFixed
	}
	return linksCDC
}

// CheckChunker returns nil if AddFile accepts the name of a chunker:
//
//   - "size-N" cuts every N bytes, 1 <= N <= MaxBlock;
//   - "NAME-MIN-AVG-MAX" cuts by content. NAME is fastcdc-v1.0.0 or jc-v1.0.0; the sizes are
//     bytes, 64 <= MIN < AVG < MAX <= MaxBlock, and AVG is a power of two;
//   - "zstd-N-NAME-MIN-AVG-MAX", 64 <= N <= MIN, cuts where the first zstd frame (RFC 8878)
//     begins after N or more bytes, and as NAME does when no frame begins within MAX bytes.
//
// Numbers are decimal, without sign or leading zeros, so each chunker has one name.
func CheckChunker(name string) error {
	_, err := parseChunker(name)
	return err
}

func parseChunker(name string) (chunker, error) {
	k, why := parseChunkerName(name)
	if why != "" {
		return chunker{}, fmt.Errorf("chunker %.80q: %s; use size-N (N up to %d), fastcdc-v1.0.0-MIN-AVG-MAX or jc-v1.0.0-MIN-AVG-MAX, the last two also with zstd-N- in front, for example %s",
			name, why, MaxBlock, DefaultChunker)
	}
	return k, nil
}

// parseChunkerName parses name. why says what is wrong with it; "" when nothing is.
func parseChunkerName(name string) (k chunker, why string) {
	var ok bool
	if n, cut := strings.CutPrefix(name, "size-"); cut {
		if k.max, ok = parseSize(n); !ok {
			return k, invalidSize
		}
		return k, ""
	}
	rest := name
	if tail, cut := strings.CutPrefix(name, "zstd-"); cut {
		n, tail, _ := strings.Cut(tail, "-")
		if k.frame, ok = parseSize(n); !ok {
			return k, invalidSize
		}
		rest = tail
	}
	for _, algorithm := range []string{algorithmFast, algorithmJC} {
		if tail, cut := strings.CutPrefix(rest, algorithm+"-"); cut {
			k.algorithm = algorithm
			return k, k.parseSizes(tail)
		}
	}
	return k, "unknown algorithm"
}

// parseSizes parses MIN-AVG-MAX. It returns what is wrong with them; "" when nothing is.
func (k *chunker) parseSizes(s string) string {
	sizes := strings.Split(s, "-")
	if len(sizes) != 3 {
		return "needs three sizes in bytes"
	}
	for i, p := range []*int{&k.min, &k.norm, &k.max} {
		var ok bool
		if *p, ok = parseSize(sizes[i]); !ok {
			return invalidSize
		}
	}
	switch {
	case k.min < minCDC || k.min >= k.norm || k.norm >= k.max || bits.OnesCount(uint(k.norm)) != 1:
		return "the sizes must be 64 <= MIN < AVG < MAX, with AVG a power of two"
	case k.frame != 0 && (k.frame < minCDC || k.frame > k.min):
		return "N of zstd-N must be 64 to MIN"
	}
	return ""
}

// invalidSize is the reason for a number that parseSize refuses.
var invalidSize = fmt.Sprintf("a size must be 1 to %d bytes, in decimal", MaxBlock)

// parseSize parses a number from 1 to MaxBlock in canonical decimal form.
func parseSize(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxBlock || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}
