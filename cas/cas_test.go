package cas_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

// The digests are those of BLAKE3's official test_vectors.json, whose inputs repeat
// the bytes 0 to 250.
func TestCIDsMatchTheOfficialBLAKE3Vectors(t *testing.T) {
	for length, digest := range map[int]string{
		0:      "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		1:      "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
		1023:   "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
		1024:   "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
		1025:   "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
		2048:   "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
		2049:   "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
		31744:  "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
		102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
	} {
		data := make([]byte, length)
		for i := range data {
			data[i] = byte(i % 251)
		}
		c := cas.Sum(cid.Raw, data)
		if got := hex.EncodeToString(c.Hash()); got != "1e20"+digest {
			t.Errorf("%d bytes: multihash %s, want 1e20%s", length, got, digest)
		}
		// go-multihash must return the same hash: hash.go replaces its BLAKE3.
		p := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: mh.BLAKE3, MhLength: -1}
		if other, err := p.Sum(data); err != nil || other != c {
			t.Errorf("%d bytes: go-multihash gives %v, %v", length, other, err)
		}
		if err := cas.Check(c, data); err != nil {
			t.Error(err)
		}
	}
}

func TestGoldenCIDs(t *testing.T) {
	for text, c := range map[string]cid.Cid{
		"bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi": cas.Sum(cid.Raw, nil),
		"bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4": cas.Sum(cid.Raw, []byte("hello")),
	} {
		if c.String() != text {
			t.Errorf("%s, want %s", c, text)
		}
		if got, err := cas.ParseCID(text); err != nil || got != c {
			t.Errorf("ParseCID(%s): %v, %v", text, got, err)
		}
	}
}

func TestOtherKindsOfCIDsAreRefused(t *testing.T) {
	for name, c := range castest.RefusedCIDs(t) {
		if err := cas.CheckCID(c); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: CheckCID: %v, want ErrCorrupt", name, err)
		}
		if err := cas.Check(c, []byte("hello")); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: Check: %v, want ErrCorrupt", name, err)
		}
		if !c.Defined() {
			continue
		}
		if _, err := cas.ParseCID(c.String()); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: ParseCID: %v, want ErrCorrupt", name, err)
		}
	}
	for _, text := range []string{"", "bafk", "not a CID", strings.Repeat("b", 1<<20)} {
		if _, err := cas.ParseCID(text); !errors.Is(err, cas.ErrCorrupt) || len(err.Error()) > 400 {
			t.Errorf("ParseCID(%.20q): %.100v, want a short ErrCorrupt", text, err)
		}
	}
}

func TestCheckRefusesOtherBytes(t *testing.T) {
	data := []byte("hello")
	sha, err := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: mh.SHA2_256, MhLength: -1}.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, cas.MaxBlock+1)
	for _, test := range []struct {
		name string
		c    cid.Cid
		data []byte
		ok   bool
	}{
		{"blake3", cas.Sum(cid.Raw, data), data, true},
		{"sha2-256", sha, data, true},
		{"one bit", cas.Sum(cid.Raw, data), []byte("hellp"), false},
		{"one bit, sha2-256", sha, []byte("hellp"), false},
		{"cut short", cas.Sum(cid.Raw, data), data[:4], false},
		{"empty", cas.Sum(cid.Raw, data), nil, false},
		{"over the limit", cas.Sum(cid.Raw, large), large, false},
	} {
		if err := cas.Check(test.c, test.data); (err == nil) != test.ok || (err != nil && !errors.Is(err, cas.ErrCorrupt)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestNotFoundIsErrNotExist(t *testing.T) {
	if err := cas.NotFound(cas.Sum(cid.Raw, nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzParseCID(f *testing.F) {
	for name, c := range castest.RefusedCIDs(f) {
		if name != "none" {
			f.Add(c.String())
		}
	}
	f.Add(cas.Sum(cid.Raw, nil).String())
	f.Add(cas.Sum(cid.DagProtobuf, nil).Encode(base36))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := cas.ParseCID(text)
		if err != nil {
			if c.Defined() || !errors.Is(err, cas.ErrCorrupt) {
				t.Fatalf("%v with %v", c, err)
			}
			return
		}
		p := c.Prefix()
		if p.Version != 1 || p.MhLength != 32 || len(c.Bytes()) != 36 || (p.MhType != mh.BLAKE3 && p.MhType != mh.SHA2_256) {
			t.Fatalf("accepted %+v", p)
		}
		if again, err := cas.ParseCID(c.String()); err != nil || again != c {
			t.Fatalf("%v, %v", again, err)
		}
	})
}

// Get returns only bytes that hash to the CID, and only for a CID that CheckCID accepts.
// The hash is compared with go-multihash's.
func FuzzBlock(f *testing.F) {
	for _, data := range [][]byte{nil, []byte("hello"), castest.Bytes(1, 5000)} {
		f.Add(cas.Sum(cid.Raw, data).Bytes(), data)
		f.Add(cas.Sum(cid.DagProtobuf, data).Bytes(), data)
	}
	for _, c := range castest.RefusedCIDs(f) {
		f.Add(c.Bytes(), []byte("hello"))
	}
	f.Fuzz(func(t *testing.T, name, data []byte) {
		c, err := cid.Cast(name)
		if err != nil {
			return
		}
		got, err := cas.Get(t.Context(), sameBytes{data}, c)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) || got != nil {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			return
		}
		other, err := c.Prefix().Sum(data)
		if err != nil || !other.Equals(c) || !bytes.Equal(got, data) || cas.CheckCID(c) != nil {
			t.Fatalf("Get returns %s, go-multihash computes %s, %v", c, other, err)
		}
	})
}

// sameBytes is a source that returns the same bytes for every CID.
type sameBytes struct{ data []byte }

func (s sameBytes) Block(context.Context, cid.Cid) ([]byte, error) { return s.data, nil }
