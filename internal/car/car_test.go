package car_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/ipfs/go-cid"
	gocar "github.com/ipld/go-car/v2"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/internal/car"
)

// block returns n bytes and their CID.
func block(t testing.TB, n int) (cid.Cid, []byte) {
	t.Helper()
	data := bytes.Repeat([]byte("phase"), n/5+1)[:n]
	c, err := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: mh.SHA2_256, MhLength: -1}.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	return c, data
}

// sizes are those where the length of a section gets another byte, and their neighbours.
var sizes = []int{0, 1, 91, 92, 93, 16347, 16348, 16349, 1 << 20}

func TestGoCARReadsWhatIsWritten(t *testing.T) {
	root, _ := block(t, 100)
	for name, header := range map[string][]byte{
		"no roots": []byte(car.NoRoots),
		"one root": car.AppendHeader(nil, root.KeyString()),
	} {
		t.Run(name, func(t *testing.T) {
			written := bytes.Clone(header)
			for _, n := range sizes {
				c, data := block(t, n)
				before := len(written)
				written = append(car.AppendHead(written, c.KeyString(), n), data...)
				if got := len(written) - before; got != car.SectionLen(n) {
					t.Errorf("a section of %d bytes, SectionLen says %d", got, car.SectionLen(n))
				}
			}
			r, err := gocar.NewBlockReader(bytes.NewReader(written))
			if err != nil {
				t.Fatal(err)
			}
			if name == "one root" && (len(r.Roots) != 1 || !r.Roots[0].Equals(root)) || name == "no roots" && len(r.Roots) != 0 {
				t.Errorf("go-car reads the roots %v", r.Roots)
			}
			for _, n := range sizes {
				c, data := block(t, n)
				got, err := r.Next() // checks the hash
				if err != nil || !got.Cid().Equals(c) || !bytes.Equal(got.RawData(), data) {
					t.Errorf("block of %d bytes: %v", n, err)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestParseLengthReadsTheShortestFormOnly(t *testing.T) {
	for name, test := range map[string]struct {
		bytes string
		n, k  int
	}{
		"one byte":             {"\x24rest", 36, 1},
		"two bytes":            {"\x80\x01rest", 128, 2},
		"three bytes":          {"\xff\xff\x7frest", 1<<21 - 1, 3},
		"nothing":              {"", 0, 0},
		"its beginning":        {"\x80", 0, 0},
		"two of three bytes":   {"\xff\xff", 0, 0},
		"four bytes":           {"\x80\x80\x80\x01", 0, -1},
		"a longer form of 36":  {"\xa4\x00", 0, -1},
		"a longer form of 128": {"\x80\x81\x00", 0, -1},
	} {
		if n, k := car.ParseLength([]byte(test.bytes)); n != test.n || k != test.k {
			t.Errorf("%s: %d, %d, want %d, %d", name, n, k, test.n, test.k)
		}
	}
}

// A head that is accepted encodes back to the same bytes.
func FuzzParseHead(f *testing.F) {
	c, _ := block(f, 3)
	for _, n := range sizes {
		f.Add(car.AppendHead(nil, c.KeyString(), n))
	}
	f.Add([]byte("\x23too short for a CID, though the bytes are there"))
	f.Add([]byte("\xa4\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := car.ParseHead(b)
		if !ok {
			return
		}
		if again := car.AppendHead(nil, h.CID[:], h.Size); h.Len != len(again) || h.Len != car.HeadLen(h.Size) || !bytes.HasPrefix(b, again) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, h, again)
		}
	})
}
