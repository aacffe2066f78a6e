package p2p

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
)

var update = flag.Bool("update", false, "write ../../testdata/ipns again, after a change of the format")

// ipnsVectors is testdata/ipns/record.json.
type ipnsVectors struct {
	Seed     string            `json:"test_key_seed"` // hex; the key is public
	Name     string            `json:"name"`
	Folder   string            `json:"folder"`
	Sequence uint64            `json:"sequence"`
	Accepted map[string]string `json:"accepted"` // file: reason
	Refused  map[string]string `json:"refused"`
}

// The IPNS records in testdata are written and judged as they were.
func TestVectorsOfIPNSRecords(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "ipns")
	seed := bytes.Repeat([]byte{0x42}, ed25519.SeedSize)
	key, other := ed25519.NewKeyFromSeed(seed), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x43}, ed25519.SeedSize))
	name, err := ipnsname.Of(key.Public().(ed25519.PublicKey))
	check(t, err)
	folder := cas.Sum(0x70, []byte("folder"))
	value, far := "/ipfs/"+folder.String(), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	record := signed(t, key, value, far)
	altered := bytes.Clone(record)
	altered[len(altered)/2] ^= 1
	files := map[string][]byte{
		"record": record, "expired": signed(t, key, value, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)),
		"other-key": signed(t, other, value, far), "altered": altered, "truncated": record[:len(record)-1],
		"points-to-name": signed(t, key, "/ipns/"+name, far), "points-below-folder": signed(t, key, value+"/deeper", far),
	}
	v := ipnsVectors{
		Seed: "4242424242424242424242424242424242424242424242424242424242424242", Name: name, Folder: folder.String(), Sequence: 1,
		Accepted: map[string]string{"record": "valid until 2100", "expired": "the metadata have their own expiry date"},
		Refused: map[string]string{
			"other-key": "signed by another key than the name's", "altered": "one bit is flipped", "truncated": "the last byte is missing",
			"points-to-name": "the value is not /ipfs/CID", "points-below-folder": "the value has a path after the CID",
		},
	}
	files["record.json"], err = json.MarshalIndent(v, "", "  ")
	check(t, err)
	files["record.json"] = append(files["record.json"], '\n')
	for file, data := range files {
		if *update {
			check(t, os.MkdirAll(dir, 0o755))
			check(t, os.WriteFile(filepath.Join(dir, file), data, 0o644))
		}
		if want, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(want, data) {
			t.Errorf("%s is not as it was: %v", file, err)
		}
	}
	for file := range v.Accepted {
		if got, seq, err := CheckRecord(name, files[file]); err != nil || !got.Equals(folder) || seq != v.Sequence {
			t.Errorf("%s: %s, sequence %d, %v", file, got, seq, err)
		}
	}
	for file := range v.Refused {
		if _, _, err := CheckRecord(name, files[file]); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
