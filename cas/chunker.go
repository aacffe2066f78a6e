package cas

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	cdc "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers fastcdc-v1.0.0
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc"      // registers jc-v1.0.0
)

// DefaultChunker cuts leaves of 16 to 256 KiB, 64 KiB being the target: small enough
// that the next release shares most of them, large enough to hash and send in bulk.
const DefaultChunker = "fastcdc-v1.0.0-16384-65536-262144"

const (
	minCDC     = 64   // bytes, the algorithms' own lower limit
	linksCDC   = 1024 // links per node of a content-defined file
	linksFixed = 174  // links per node with size-N, as Kubo does
)

// chunker is a parsed chunker name.
type chunker struct {
	algorithm      string // "" for size-N
	min, norm, max int    // bytes; with size-N only max is set
}

// links is the number of links that an inner node of the file gets.
func (k chunker) links() int {
	if k.algorithm == "" {
		return linksFixed
	}
	return linksCDC
}

func (k chunker) options() *cdc.ChunkerOpts {
	return &cdc.ChunkerOpts{MinSize: k.min, NormalSize: k.norm, MaxSize: k.max}
}

// CheckChunker reports whether name is a chunker that AddFile knows, in its only
// form: "size-N" with 1 <= N <= MaxBlock, or NAME-MIN-AVG-MAX with NAME
// fastcdc-v1.0.0 or jc-v1.0.0, 64 <= MIN < AVG < MAX <= MaxBlock bytes and AVG a
// power of two. Numbers are decimal, without sign or leading zeros.
func CheckChunker(name string) error {
	_, err := parseChunker(name)
	return err
}

func parseChunker(name string) (chunker, error) {
	bad := func(why string) (chunker, error) {
		return chunker{}, fmt.Errorf("chunker %.80q: %s; use size-N (N up to %d), fastcdc-v1.0.0-MIN-AVG-MAX or jc-v1.0.0-MIN-AVG-MAX, for example %s",
			name, why, MaxBlock, DefaultChunker)
	}
	if n, ok := strings.CutPrefix(name, "size-"); ok {
		size, ok := parseSize(n)
		if !ok {
			return bad("not a size in bytes that we cut")
		}
		return chunker{max: size}, nil
	}
	for _, algorithm := range []string{"fastcdc-v1.0.0", "jc-v1.0.0"} {
		rest, ok := strings.CutPrefix(name, algorithm+"-")
		if !ok {
			continue
		}
		sizes := strings.Split(rest, "-")
		if len(sizes) != 3 {
			return bad("needs three sizes in bytes")
		}
		k := chunker{algorithm: algorithm}
		for i, p := range []*int{&k.min, &k.norm, &k.max} {
			if *p, ok = parseSize(sizes[i]); !ok {
				return bad("not a size in bytes that we cut")
			}
		}
		if k.min < minCDC || k.min >= k.norm || k.norm >= k.max || bits.OnesCount(uint(k.norm)) != 1 {
			return bad("the sizes must be 64 <= MIN < AVG < MAX, AVG a power of two")
		}
		return k, nil
	}
	return bad("unknown")
}

// parseSize reads a number in its one canonical form, 1 to MaxBlock.
func parseSize(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxBlock || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}
