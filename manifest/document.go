package manifest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Document is a metadata file that passed Lint. It is read once, made canonical once, and each
// of its signatures is verified at most once, whatever roles may have made it. A Document is
// not trusted: Verify, Root and CheckRole decide that. It cannot be changed, and is not for
// concurrent use.
type Document struct {
	kind        Kind
	role        string // root, targets, snapshot, timestamp, or CHANNEL-ARCH; set by Open
	data        []byte
	signed      object
	payload     []byte // canonical JSON of signed, the bytes that the signatures cover
	signatures  []metadata.Signature
	verified    map[string]bool // by key ID: the result for each signature that was verified
	unknown     []string
	delegations []delegation // of a targets.json
	release     *Release     // set by Open for a release manifest
	config      *Config      // set by Open for the settings of machines
}

// Open reads a metadata file of the kind that the file itself names. A file that Lint refuses
// and a release with content that is not allowed wrap ErrMalformed. No signature and no date is checked.
func Open(data []byte) (*Document, error) {
	kind, err := KindOf(data)
	if err != nil {
		return nil, err
	}
	d, err := open(kind, data)
	if err == nil && kind == KindConfig {
		var c Config
		c, err = d.decodeConfig()
		d.config = &c
	}
	if err != nil || kind != KindRole {
		return d, err
	}
	fields, err := d.fields()
	if err != nil {
		return nil, err
	}
	if d.role, err = RoleName(fields.Channel, fields.Arch); err != nil {
		return nil, err
	}
	r, err := d.decode(fields.Channel, fields.Arch)
	d.release = &r
	return d, err
}

// open lints a file of one kind and reads it. It does not decode a release.
func open(kind Kind, data []byte) (*Document, error) {
	top, unknown, err := lint(kind, data)
	if err != nil {
		return nil, err
	}
	d := &Document{
		kind: kind, role: string(kind), data: data, signed: top["signed"].(object), unknown: unknown,
		signatures: []metadata.Signature{}, verified: map[string]bool{},
	}
	d.payload = appendCanonical(make([]byte, 0, len(data)), d.signed)
	if kind == KindTargets {
		d.delegations = readDelegations(d.signed)
	}
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

// NewDocument returns built metadata of one kind as the document that a reader of its file gets.
func NewDocument[T metadata.Roles](kind Kind, m *metadata.Metadata[T]) (*Document, error) {
	data, err := Bytes(kind, m)
	if err != nil {
		return nil, err
	}
	return Open(data)
}

// Kind is the kind of metadata.
func (d *Document) Kind() Kind { return d.kind }

// Role is the TUF role: root, targets, snapshot, timestamp, or CHANNEL-ARCH.
func (d *Document) Role() string { return d.role }

// Data is the file. The caller must not change it.
func (d *Document) Data() []byte { return d.data }

// Digest is the SHA-256 of the signed part in canonical JSON, 64 hex digits. Two files with one
// digest differ in signatures and white space only.
func (d *Document) Digest() string {
	sum := sha256.Sum256(d.payload)
	return hex.EncodeToString(sum[:])
}

// Version is the TUF version.
func (d *Document) Version() int64 { return d.signed["version"].(int64) }

// Expires is the date from which the file is expired.
func (d *Document) Expires() time.Time { return d.date(d.signed["expires"]) }

// CheckExpiry refuses a document that is expired at now, with an error that wraps ErrExpired.
// The zero time refuses nothing.
func (d *Document) CheckExpiry(now time.Time) error {
	return checkDate(now, "", versioned(d.role, d.Version()), d.Expires(), "sign a newer one")
}

// CheckName refuses a document that does not belong in a file of that name, for example a
// root.json version 2 in 3.root.json. The error wraps ErrUntrusted.
func (d *Document) CheckName(name string) error {
	if FileName(d.role, d.Version()) == name {
		return nil
	}
	return refuse(ErrUntrusted, "holds %s version %d; get the file from the signer again", d.role, d.Version())
}

// Release is what a release manifest says, nil for other kinds. The caller must not change it.
func (d *Document) Release() *Release { return d.release }

// Unknown lists the signed fields that no function of this package reads, sorted, each with its
// path and its value as JSON. The signatures cover them too.
func (d *Document) Unknown() []string { return d.unknown }

// SignedAt is the date of signing of a timestamp or a release, the zero time for other kinds.
func (d *Document) SignedAt() time.Time { return d.date(d.extension()["signed_at"]) }

// date reads a date that passed Lint; a missing one is the zero time.
func (d *Document) date(v any) time.Time {
	s, _ := v.(string)
	t, err := time.Parse(timeLayout, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// extension is the field x-phaseboot, nil when there is none.
func (d *Document) extension() object {
	x, _ := d.signed[extension].(object)
	return x
}

// A MetaFile is a file that a snapshot or a timestamp names.
type MetaFile struct {
	File    string `json:"file"`
	Version int64  `json:"version"`
	Length  int64  `json:"length"` // bytes
	SHA256  string `json:"sha256"` // 64 hex digits
}

// MetaFiles lists the files that a snapshot or a timestamp names, sorted; nil for other kinds.
func (d *Document) MetaFiles() []MetaFile {
	if d.kind != KindSnapshot && d.kind != KindTimestamp {
		return nil
	}
	var list []MetaFile
	for _, name := range sorted(d.meta()) {
		f := d.metaFile(name)
		list = append(list, MetaFile{name, f.Version, f.Length, f.Hashes["sha256"].String()})
	}
	return list
}

// meta is the meta map of a snapshot or a timestamp, by file name.
func (d *Document) meta() object { return d.signed["meta"].(object) }

// metaFile is the entry of a file in the meta map, nil when it is not there.
func (d *Document) metaFile(name string) *metadata.MetaFiles {
	entry, ok := d.meta()[name].(object)
	if !ok {
		return nil
	}
	f := &metadata.MetaFiles{Version: entry["version"].(int64), Length: entry["length"].(int64), Hashes: metadata.Hashes{}}
	for algorithm, sum := range entry["hashes"].(object) {
		f.Hashes[algorithm], _ = hex.DecodeString(sum.(string)) // Lint accepts hex digits only
	}
	return f
}

// Sign returns d with a signature by signer, in place of an older one by the same key.
func (d *Document) Sign(signer signature.Signer) (*Document, error) {
	public, err := signer.PublicKey()
	if err != nil {
		return nil, err
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return nil, malformed("public key: %T is not an Ed25519 key", public)
	}
	sig, err := signer.SignMessage(bytes.NewReader(d.payload))
	if err != nil {
		return nil, err
	}
	return d.withSignatures(replaceSignature(d.signatures, metadata.Signature{KeyID: KeyID(key), Signature: sig}))
}

// Merge returns d with the signatures of other by keys that have not signed d. Both must have
// the same digest.
func (d *Document) Merge(other *Document) (*Document, error) {
	list := slices.Clone(d.signatures)
	for _, sig := range other.signatures {
		if !slices.ContainsFunc(list, func(s metadata.Signature) bool { return s.KeyID == sig.KeyID }) {
			list = append(list, sig)
		}
	}
	return d.withSignatures(list)
}

// withSignatures returns d with a list of signatures in place of its own, in the form of Bytes. The
// signed part is copied.
func (d *Document) withSignatures(list []metadata.Signature) (*Document, error) {
	var file map[string]json.RawMessage
	err := json.Unmarshal(d.data, &file)
	if err == nil {
		file["signatures"], err = json.Marshal(list)
	}
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(file, "", "\t")
	if err != nil {
		return nil, err
	}
	next, err := Open(append(data, '\n'))
	if err == nil && !bytes.Equal(next.payload, d.payload) {
		err = malformed("the file cannot be written as it was read")
	}
	return next, err
}
