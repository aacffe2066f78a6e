package cas_test

import (
	"bytes"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/zeebo/blake3"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

const benchSize = 256 << 20

// BenchmarkBLAKE3 measures hashing alone, on one core, for comparison.
func BenchmarkBLAKE3(b *testing.B) {
	data := castest.Bytes(1, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		blake3.Sum256(data)
	}
}

func BenchmarkFileCID(b *testing.B) {
	data := castest.Bytes(1, benchSize)
	for _, chunker := range []string{cas.DefaultChunker, "fastcdc-v1.0.0-16384-65536-262144", "size-262144"} {
		b.Run(chunker, func(b *testing.B) {
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cas.FileCID(b.Context(), bytes.NewReader(data), chunker); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckLeaf measures the check of one leaf. It must not allocate.
func BenchmarkCheckLeaf(b *testing.B) {
	data := castest.Bytes(1, 64<<10)
	c := cas.Sum(cid.Raw, data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := cas.Check(c, data); err != nil {
			b.Fatal(err)
		}
	}
}
