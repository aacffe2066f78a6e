package bucket

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// twoBlocks returns a pack of two blocks.
func twoBlocks() *building {
	b := newBuilding(0)
	for _, text := range []string{"a block", "another block"} {
		b.append(key([]byte(cas.Sum(cid.Raw, []byte(text)).KeyString())), []byte(text))
	}
	return b
}

// golden is the index of twoBlocks. A store in an object store has indexes for years: another form
// needs another mark.
const golden = "5048415345424931" + "7000000000000000" + "0200000000000000"

func TestTheFormOfAnIndex(t *testing.T) {
	b := twoBlocks()
	data := encodeIndex(slices.Clone(b.records), int64(len(b.data)))
	if got := hex.EncodeToString(data[:indexHead]); got != golden {
		t.Errorf("head %s, want %s", got, golden)
	}
	if want := indexHead + 2*(36+4+4) + 32; len(data) != want {
		t.Errorf("%d bytes, want %d", len(data), want)
	}
	records, size, err := parseIndex(data)
	if err != nil || size != int64(len(b.data)) || len(records) != 2 {
		t.Fatal(records, size, err)
	}
	for _, r := range records {
		section := b.data[r.offset:][:r.size]
		if _, err := checkSection(section, r, r.key.cid()); err != nil {
			t.Error(err)
		}
	}
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1
		if _, _, err := parseIndex(damaged); err == nil {
			t.Errorf("a changed byte %d is not noticed", i)
		}
	}
}

// An index that is accepted encodes back to the same bytes, and its sections lie in the pack.
func FuzzParseIndex(f *testing.F) {
	b := twoBlocks()
	f.Add(encodeIndex(slices.Clone(b.records), int64(len(b.data))))
	f.Add(encodeIndex(nil, int64(len(car.NoRoots))))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, size, err := parseIndex(fixSum(data))
		if err != nil {
			return
		}
		if again := encodeIndex(slices.Clone(records), size); !bytes.Equal(again, fixSum(data)) {
			t.Fatalf("%x is written as %x", data, again)
		}
		for _, r := range records {
			if int64(r.offset)+int64(r.size) > size {
				t.Fatalf("section of %d bytes at %d, in a pack of %d", r.size, r.offset, size)
			}
		}
	})
}

func TestAddresses(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
	t.Setenv("AWS_REGION", "")
	for name, want := range map[string]string{
		"s3://boot":      "s3://boot/ at http://127.0.0.1:9000, us-east-1",
		"s3://boot/a/b/": "s3://boot/a/b at http://127.0.0.1:9000, us-east-1",
		"s3://boot/a?endpoint=https://s3.example&region=eu": "s3://boot/a at https://s3.example, eu",
		"s3://Boot":                          "",
		"s3:///a":                            "",
		"s3://boot/../a":                     "",
		"s3://boot/a//b":                     "",
		"s3://boot/a?key=secret":             "",
		"s3://boot/a?endpoint=ftp://x":       "",
		"s3://boot/a?endpoint=http://x/path": "",
		"s3://user@boot/a":                   "",
		"store":                              "",
	} {
		a, err := ParseAddress(name)
		got := ""
		if err == nil {
			got = a.String() + " at " + a.Endpoint.String() + ", " + a.Region
		}
		if got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}
