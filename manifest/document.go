package manifest

import (
	"crypto/ed25519"
	"encoding/hex"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A document is a metadata file that passed Lint: read once, made canonical once, and
// each of its signatures checked at most once, however many roles may have made it.
// Nothing in it is trusted until an authority accepts it.
type document struct {
	data       []byte
	signed     object
	payload    []byte // what the signatures are over
	signatures []metadata.Signature
	good       map[string]bool // by key id, what was found
}

// open lints a file of some kind and reads it.
func open(kind Kind, data []byte) (*document, error) {
	top, err := lint(kind, data)
	if err != nil {
		return nil, err
	}
	d := &document{data: data, signed: top["signed"].(object), good: map[string]bool{}}
	d.payload = appendCanonical(make([]byte, 0, len(data)), d.signed)
	for _, v := range top["signatures"].([]any) {
		sig := v.(object)
		raw, err := hex.DecodeString(sig["sig"].(string))
		if err != nil {
			return nil, malformed("signatures: %v", err)
		}
		d.signatures = append(d.signatures, metadata.Signature{KeyID: sig["keyid"].(string), Signature: raw})
	}
	return d, nil
}

// signedBy reports whether the signature in the name of a key is good. A key id is the
// hash of the key, so one answer holds for whoever lists it.
func (d *document) signedBy(sig metadata.Signature, key ed25519.PublicKey) bool {
	good, known := d.good[sig.KeyID]
	if !known {
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, d.payload, sig.Signature)
		d.good[sig.KeyID] = good
	}
	return good
}

func (d *document) version() int64 { return d.signed["version"].(int64) }

func (d *document) expires() time.Time { return d.date(d.signed["expires"]) }

// date reads a date that passed Lint; the zero time for one that is not there.
func (d *document) date(v any) time.Time {
	s, _ := v.(string)
	t, err := time.Parse(timeLayout, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// extension is the field x-phaseboot, nil when there is none.
func (d *document) extension() object {
	x, _ := d.signed[extension].(object)
	return x
}

// signedAt is the date of signing, the zero time when the file does not say.
func (d *document) signedAt() time.Time { return d.date(d.extension()["signed_at"]) }

// files are the names in the meta map of a snapshot or a timestamp.
func (d *document) files() object { return d.signed["meta"].(object) }

// file is what a snapshot or a timestamp says of a file, nil when it does not name it.
func (d *document) file(name string) *metadata.MetaFiles {
	entry, ok := d.files()[name].(object)
	if !ok {
		return nil
	}
	f := &metadata.MetaFiles{Version: entry["version"].(int64), Length: entry["length"].(int64), Hashes: metadata.Hashes{}}
	for algorithm, sum := range entry["hashes"].(object) {
		f.Hashes[algorithm], _ = hex.DecodeString(sum.(string)) // Lint left hex only
	}
	return f
}
