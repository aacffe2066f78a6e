package pack_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

const benchSize = 256 << 20

func BenchmarkIngest(b *testing.B) {
	data := castest.Bytes(1, benchSize)
	for name, sync := range map[string]bool{"synced": true, "written": false} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				p, err := pack.Open(b.TempDir(), pack.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := cas.AddFile(b.Context(), p.Put, bytes.NewReader(data), cas.DefaultChunker); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if sync {
					b.StartTimer()
				}
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkCopyFromPacks(b *testing.B) {
	p, err := pack.Open(b.TempDir(), pack.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	f, err := cas.AddFile(b.Context(), p.Put, bytes.NewReader(castest.Bytes(1, benchSize)), cas.DefaultChunker)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		if err := cas.Copy(b.Context(), io.Discard, p, f.CID, f.Size); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBlocksAtRandom reads and checks blocks of 16 KiB on all cores.
func BenchmarkBlocksAtRandom(b *testing.B) {
	const size = 16 << 10
	p, err := pack.Open(b.TempDir(), pack.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	f, err := cas.AddFile(b.Context(), p.Put, bytes.NewReader(castest.Bytes(1, benchSize)), "size-16384")
	if err != nil {
		b.Fatal(err)
	}
	leaves, err := cas.Leaves(b.Context(), p, f.CID, f.Size)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var room []byte
		for pb.Next() {
			if _, err := cas.ReadLeafInto(b.Context(), p, leaves[rand.IntN(len(leaves))], &room); err != nil {
				b.Error(err)
			}
		}
	})
}
