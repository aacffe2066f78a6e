package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	cdc "github.com/PlakarKorp/go-cdc-chunkers"
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

func TestChunkerNamesHaveOneForm(t *testing.T) {
	for _, name := range []string{
		cas.DefaultChunker, "size-1", "size-262144", "size-1048576",
		"jc-v1.0.0-4096-16384-65536", "fastcdc-v1.0.0-64-128-129", "zstd-64-fastcdc-v1.0.0-64-128-129",
	} {
		if err := cas.CheckChunker(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "size-", "size-0", "size--1", "size-+1", "size-01", "size-1048577", "size-1k", "size-1 ", " size-1", "size-٣",
		"fastcdc", "fastcdc-v1.0.0", "fastcdc-16384-65536-262144", "jc-v1.1.0-4096-16384-65536", "rabin-1-2-3",
		"fastcdc-v1.0.0-16384-65536", "fastcdc-v1.0.0-16384-65536-262144-1", "fastcdc-v1.0.0-016384-65536-262144",
		"fastcdc-v1.0.0-63-128-256", "fastcdc-v1.0.0-128-128-256", "fastcdc-v1.0.0-64-128-128", "fastcdc-v1.0.0-64-100-256",
		"zstd-4096", "zstd-4096-", "zstd-4096-size-262144", "zstd-04096-jc-v1.0.0-16384-65536-262144",
		"zstd-63-jc-v1.0.0-16384-65536-262144", "zstd-16385-jc-v1.0.0-16384-65536-262144", "zstd-64-zstd-64-jc-v1.0.0-64-128-256",
		"zstd--jc-v1.0.0-16384-65536-262144", "fastcdc-v1.0.0-16384-65536-1048577", "FASTCDC-v1.0.0-16384-65536-262144", strings.Repeat("x", 1<<20),
	} {
		err := cas.CheckChunker(name)
		if err == nil {
			t.Errorf("%.40q was accepted", name)
			continue
		}
		for _, form := range []string{"size-N", "fastcdc-v1.0.0-MIN-AVG-MAX", "jc-v1.0.0-MIN-AVG-MAX"} {
			if !strings.Contains(err.Error(), form) {
				t.Errorf("%.40q: the error does not name %s: %.200v", name, form, err)
			}
		}
		if _, err := cas.FileCID(t.Context(), strings.NewReader(""), name); err == nil {
			t.Errorf("%.40q cuts files", name)
		}
	}
}

// leafSizes returns the lengths of the leaves of r, in order.
func leafSizes(t *testing.T, r io.Reader, chunker string) []int {
	t.Helper()
	var sizes []int
	_, err := cas.AddFile(t.Context(), func(_ context.Context, c cid.Cid, data []byte) error {
		if c.Type() == cid.Raw {
			sizes = append(sizes, len(data))
		}
		return cas.Check(c, data)
	}, r, chunker)
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

// The signed CIDs depend on the cut points. If these change, a new release shares no leaf
// with the ones on machines, and `add` refuses a release that was signed before.
func TestCutPointsAreFrozen(t *testing.T) {
	data := castest.Bytes(0, 1<<21)
	for _, want := range readGoldenChunks(t).Cuts {
		chunker := want.Chunker
		if got := leafSizes(t, bytes.NewReader(data), chunker); !slices.Equal(got, want.Leaves) {
			t.Errorf("%s cuts %d", chunker, got)
		}
		f, err := cas.FileCID(t.Context(), bytes.NewReader(data), chunker)
		if err != nil {
			t.Fatal(err)
		}
		if f.CID.String() != want.Root || f.Size != 1<<21 {
			t.Errorf("%s: root %s of %d bytes, want %s", chunker, f.CID, f.Size, want.Root)
		}
	}
}

// Cutting in place, segment by segment, gives the cuts of the library's own reader.
func TestCutsAreThoseOfTheLibrary(t *testing.T) {
	random, zero := castest.Bytes(1, 9<<20), make([]byte, 5<<20)
	for _, test := range []struct {
		algorithm     string
		min, avg, max int
	}{
		{"fastcdc-v1.0.0", 16384, 65536, 262144},
		{"fastcdc-v1.0.0", 2048, 8192, 65536},
		{"fastcdc-v1.0.0", 64, 128, 1 << 20},
		{"fastcdc-v1.0.0", 262144, 524288, 1048576},
		{"jc-v1.0.0", 16384, 65536, 262144},
		{"jc-v1.0.0", 2048, 8192, 65536},
		{"jc-v1.0.0", 64, 64 << 10, 64<<10 + 1},
	} {
		name := fmt.Sprintf("%s-%d-%d-%d", test.algorithm, test.min, test.avg, test.max)
		for _, data := range [][]byte{
			random, zero, random[:test.min], random[:test.min+1], random[:test.avg], random[:test.max], random[:test.max+1],
			random[:1], random[:1<<20], random[:8*test.max], append(slices.Clone(random[:3<<20]), zero...),
		} {
			lib, err := cdc.NewChunker(test.algorithm, bytes.NewReader(data),
				&cdc.ChunkerOpts{MinSize: test.min, NormalSize: test.avg, MaxSize: test.max})
			if err != nil {
				t.Fatal(err)
			}
			var want []int
			for {
				chunk, err := lib.Next()
				if len(chunk) > 0 {
					want = append(want, len(chunk))
				}
				if err != nil {
					break
				}
			}
			if got := leafSizes(t, bytes.NewReader(data), name); !slices.Equal(got, want) {
				t.Errorf("%s, %d bytes: cuts %v, the library %v", name, len(data), got, want)
			}
		}
	}
}

// The frames are like the blocks of a squashfs: an unchanged block is the same leaf, whatever
// comes before or after it.
func TestALeafEndsWhereAZstdFrameBegins(t *testing.T) {
	const chunker = "zstd-4096-jc-v1.0.0-16384-65536-262144"
	frame := func(seed byte, n int) []byte {
		return append([]byte("\x28\xb5\x2f\xfd"), castest.Bytes(seed, n-4)...)
	}
	frames := [][]byte{frame(1, 40_000), frame(2, 4096), frame(3, 131_072), frame(4, 1000), frame(5, 3096), frame(6, 200_000), frame(7, 9000)}
	want := []int{40_000, 4096, 131_072, 4096, 200_000, 9000} // the fourth is too short for a leaf of its own
	if got := leafSizes(t, bytes.NewReader(slices.Concat(frames...)), chunker); !slices.Equal(got, want) {
		t.Errorf("cuts %d, want %d", got, want)
	}
	got := leafSizes(t, bytes.NewReader(slices.Concat(append([][]byte{make([]byte, 70_000)}, frames...)...)), chunker)
	if !slices.Equal(got[len(got)-len(want):], want) {
		t.Errorf("after other bytes: cuts %d", got)
	}
	// a frame that is longer than a leaf is cut like other bytes, and the next one is found
	long := slices.Concat(frame(6, 900_000), frame(8, 50_000), frame(9, 20_000))
	sizes := leafSizes(t, bytes.NewReader(long), chunker)
	if n := len(sizes); sizes[n-1] != 20_000 || sizes[n-2] != 50_000 {
		t.Errorf("a long frame: cuts %d", sizes)
	}
	if plain := leafSizes(t, bytes.NewReader(long[:900_000]), "jc-v1.0.0-16384-65536-262144"); !slices.Equal(sizes[:5], plain[:5]) {
		t.Errorf("a long frame: cuts %d, jc-v1.0.0 alone %d", sizes, plain)
	}
}

// No frame is missed because its bytes were searched for an earlier leaf: the cuts are those
// of the definition, computed leaf by leaf.
func TestNoFrameIsMissed(t *testing.T) {
	const plain = "jc-v1.0.0-4096-16384-65536"
	data := castest.Bytes(3, 4<<20)
	places := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(data)-4; at += 1 + places.IntN(1<<places.IntN(19)) {
		copy(data[at:], "\x28\xb5\x2f\xfd")
	}
	var want []int
	for rest := data; len(rest) > 0; rest = rest[want[len(want)-1]:] {
		n := leafSizes(t, bytes.NewReader(rest[:min(len(rest), 65536)]), plain)[0]
		if len(rest) > 1024 {
			if i := bytes.Index(rest[1024:min(len(rest), 65536)], []byte("\x28\xb5\x2f\xfd")); i >= 0 {
				n = 1024 + i
			}
		}
		want = append(want, n)
	}
	if got := leafSizes(t, bytes.NewReader(data), "zstd-1024-"+plain); !slices.Equal(got, want) {
		t.Errorf("cuts %d, want %d", got, want)
	}
}

func TestCutsDoNotDependOnTheSizesOfReads(t *testing.T) {
	data := castest.Bytes(2, 5<<20+12345)
	for _, chunker := range []string{cas.DefaultChunker, "fastcdc-v1.0.0-16384-65536-262144", "size-262144", "size-100000"} {
		want := leafSizes(t, bytes.NewReader(data), chunker)
		for name, r := range map[string]io.Reader{
			"half":          iotest.HalfReader(bytes.NewReader(data)),
			"data with EOF": iotest.DataErrReader(bytes.NewReader(data)),
			"one byte":      iotest.OneByteReader(bytes.NewReader(data)),
			"small buffers": io.MultiReader(bytes.NewReader(data[:70001]), bytes.NewReader(data[70001:])),
			"only a Reader": struct{ io.Reader }{bytes.NewReader(data)},
		} {
			if got := leafSizes(t, r, chunker); !slices.Equal(got, want) {
				t.Errorf("%s, %s: cuts %d", chunker, name, got)
			}
		}
	}
}

func TestAReadErrorIsNotTheEndOfTheFile(t *testing.T) {
	broken := errors.New("the disk is gone")
	for _, fail := range []error{broken, io.ErrUnexpectedEOF} {
		for _, before := range []int{0, 100, 3 << 20} {
			for _, chunker := range []string{cas.DefaultChunker, "size-262144"} {
				r := io.MultiReader(bytes.NewReader(make([]byte, before)), iotest.ErrReader(fail))
				if _, err := cas.FileCID(t.Context(), r, chunker); !errors.Is(err, fail) {
					t.Errorf("%s, after %d bytes: %v, want %v", chunker, before, err, fail)
				}
			}
		}
	}
	if _, err := cas.FileCID(t.Context(), stuck{}, "size-1"); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader without progress: %v", err)
	}
}

// stuck is a reader that returns neither bytes nor an error.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }
