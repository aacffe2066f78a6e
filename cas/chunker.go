package cas

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// DefaultChunker cuts a squashfs between its compressed blocks, and anything else into
// leaves of 16 to 256 KiB, 64 KiB being the target: small enough that the next release
// shares most of them, large enough to hash and send in bulk.
const DefaultChunker = "zstd-4096-jc-v1.0.0-16384-65536-262144"

const (
	algorithmFast = "fastcdc-v1.0.0"
	algorithmJC   = "jc-v1.0.0"

	minCDC     = 64   // bytes, the algorithms' own lower limit
	linksCDC   = 1024 // links per node of a content-defined file
	linksFixed = 174  // links per node with size-N, as Kubo does
)

// chunker is a parsed chunker name.
type chunker struct {
	algorithm      string // "" for size-N
	min, norm, max int    // bytes; with size-N only max is set
	frame          int    // 0, or the least bytes of a leaf that ends where a zstd frame begins
}

// links is the number of links that an inner node of the file gets.
func (k chunker) links() int {
	if k.algorithm == "" {
		return linksFixed
	}
	return linksCDC
}

// CheckChunker reports whether name is a chunker that AddFile knows, in its only
// form: "size-N" with 1 <= N <= MaxBlock, or NAME-MIN-AVG-MAX with NAME
// fastcdc-v1.0.0 or jc-v1.0.0, 64 <= MIN < AVG < MAX <= MaxBlock bytes and AVG a
// power of two, or "zstd-N-" before the latter, 64 <= N <= MIN: then a leaf ends where the
// first zstd frame (RFC 8878) begins N or more bytes into it, and as NAME says when none
// begins within MAX. Numbers are decimal, without sign or leading zeros.
func CheckChunker(name string) error {
	_, err := parseChunker(name)
	return err
}

func parseChunker(name string) (chunker, error) {
	k, why := parseChunkerName(name)
	if why != "" {
		return chunker{}, fmt.Errorf("chunker %.80q: %s; use size-N (N up to %d), fastcdc-v1.0.0-MIN-AVG-MAX or jc-v1.0.0-MIN-AVG-MAX, either of them after zstd-N- or not, for example %s",
			name, why, MaxBlock, DefaultChunker)
	}
	return k, nil
}

// parseChunkerName also returns why name is none, "" when it is one.
func parseChunkerName(name string) (k chunker, why string) {
	const notSize = "not a size in bytes that we cut"
	var ok bool
	if n, cut := strings.CutPrefix(name, "size-"); cut {
		if k.max, ok = parseSize(n); !ok {
			return k, notSize
		}
		return k, ""
	}
	rest := name
	if tail, cut := strings.CutPrefix(name, "zstd-"); cut {
		n, tail, _ := strings.Cut(tail, "-")
		if k.frame, ok = parseSize(n); !ok {
			return k, notSize
		}
		rest = tail
	}
	for _, algorithm := range []string{algorithmFast, algorithmJC} {
		if tail, cut := strings.CutPrefix(rest, algorithm+"-"); cut {
			k.algorithm = algorithm
			return k, k.parseSizes(tail)
		}
	}
	return k, "unknown"
}

// parseSizes reads MIN-AVG-MAX and returns why they are none, "" when they are.
func (k *chunker) parseSizes(s string) string {
	sizes := strings.Split(s, "-")
	if len(sizes) != 3 {
		return "needs three sizes in bytes"
	}
	for i, p := range []*int{&k.min, &k.norm, &k.max} {
		var ok bool
		if *p, ok = parseSize(sizes[i]); !ok {
			return "not a size in bytes that we cut"
		}
	}
	switch {
	case k.min < minCDC || k.min >= k.norm || k.norm >= k.max || bits.OnesCount(uint(k.norm)) != 1:
		return "the sizes must be 64 <= MIN < AVG < MAX, AVG a power of two"
	case k.frame != 0 && (k.frame < minCDC || k.frame > k.min):
		return "the frames must be of 64 bytes to MIN"
	}
	return ""
}

// parseSize reads a number in its one canonical form, 1 to MaxBlock.
func parseSize(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxBlock || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}
