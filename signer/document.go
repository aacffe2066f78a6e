package signer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A document is one metadata file of any kind: linted, parsed, and not trusted.
type document struct {
	path       string
	kind       manifest.Kind
	role       string // root, targets, snapshot, timestamp, or CHANNEL-ARCH
	version    int64
	expires    time.Time
	data       []byte // the file as it was read
	payload    []byte // canonical JSON, what the signatures are over
	signatures []metadata.Signature
	meta       any    // *metadata.Metadata of the kind, for go-tuf
	repository string // ID, "" for none

	release *manifest.Release                        // of a release manifest
	root    *metadata.Metadata[metadata.RootType]    // of a root
	targets *metadata.Metadata[metadata.TargetsType] // of targets and of a release manifest

	sign   func(signature.Signer) (keyID string, err error)
	merge  func([]metadata.Signature) // those by keys that have not signed here
	encode func() ([]byte, error)
}

// openDocument reads a metadata file that a person named.
func openDocument(path string) (*document, error) {
	return openAs(path, "manifest", "a whole metadata file, such as RELEASE.json or root.json")
}

// openRoot reads the root from which a person starts.
func openRoot(path string) (*document, error) {
	d, err := openAs(path, "root", "the root.json that phase-sign init made")
	if err == nil && d.kind != manifest.KindRoot {
		return nil, invalid("root %s: is %s metadata; name the root.json", path, d.kind)
	}
	return d, err
}

// openAs reads a metadata file; words say what it is for, and what belongs there.
func openAs(path, what, belongs string) (*document, error) {
	data, err := readMetadata(path)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	d, err := parseDocument(data)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; name %s", what, path, err, belongs)
	}
	d.path = path
	return d, nil
}

func readMetadata(path string) ([]byte, error) {
	data, err := readSmall(path, manifest.MaxMetadata)
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("the file is empty (%w); get it again", cas.ErrCorrupt)
	case len(data) > manifest.MaxMetadata:
		return nil, invalid("more than %d bytes, so not metadata; is this the right file?", manifest.MaxMetadata)
	}
	return data, nil
}

// parseDocument looks at the file's own word on what it is; the lint of that kind
// then decides whether it is.
func parseDocument(data []byte) (*document, error) {
	kind, err := manifest.KindOf(data)
	if err != nil {
		return nil, err
	}
	switch kind {
	case manifest.KindRoot:
		d, m, err := newDocument[metadata.RootType](kind, data)
		d.root = m
		return d, err
	case manifest.KindTimestamp:
		d, _, err := newDocument[metadata.TimestampType](kind, data)
		return d, err
	case manifest.KindSnapshot:
		d, _, err := newDocument[metadata.SnapshotType](kind, data)
		return d, err
	case manifest.KindTargets:
		d, m, err := newDocument[metadata.TargetsType](kind, data)
		d.targets = m
		return d, err
	}
	return releaseDocument(data)
}

func releaseDocument(data []byte) (*document, error) {
	d, m, err := newDocument[metadata.TargetsType](manifest.KindRole, data)
	if err != nil {
		return nil, err
	}
	var claim struct {
		Signed struct {
			X struct{ Channel, Arch string } `json:"x-phaseboot"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(data, &claim); err != nil {
		return nil, fmt.Errorf("%w: %w", manifest.ErrMalformed, err)
	}
	r, err := manifest.Decode(m, claim.Signed.X.Channel, claim.Signed.X.Arch)
	if err != nil {
		return nil, err
	}
	d.release, d.targets = &r, m
	d.role, err = manifest.RoleName(r.Channel, r.Arch)
	return d, err
}

func newDocument[T metadata.Roles](kind manifest.Kind, data []byte) (*document, *metadata.Metadata[T], error) {
	m, err := manifest.Parse[T](kind, data)
	if err != nil {
		return &document{}, nil, err
	}
	d := &document{kind: kind, role: string(kind), data: data, signatures: m.Signatures, meta: m}
	switch signed := any(&m.Signed).(type) {
	case *metadata.RootType:
		d.version, d.expires = signed.Version, signed.Expires
	case *metadata.TargetsType:
		d.version, d.expires = signed.Version, signed.Expires
	case *metadata.SnapshotType:
		d.version, d.expires = signed.Version, signed.Expires
	case *metadata.TimestampType:
		d.version, d.expires = signed.Version, signed.Expires
	}
	d.repository = manifest.ReadRepository(m)
	if d.payload, err = cjson.EncodeCanonical(m.Signed); err != nil {
		return d, nil, fmt.Errorf("%w: %w", manifest.ErrMalformed, err)
	}
	d.sign = func(s signature.Signer) (string, error) {
		id, err := manifest.Sign(m, s)
		d.signatures = m.Signatures
		return id, err
	}
	d.merge = func(list []metadata.Signature) {
		for _, sig := range list {
			if !slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == sig.KeyID }) {
				m.Signatures = append(m.Signatures, sig)
			}
		}
		d.signatures = m.Signatures
	}
	d.encode = func() ([]byte, error) { return manifest.Bytes(kind, m) }
	return d, m, nil
}

// folder is where the files that belong to it are looked for first.
func (d *document) folder() string { return filepath.Dir(d.path) }

// digest names the signed part: what people compare before they sign.
func (d *document) digest() string {
	sum := sha256.Sum256(d.payload)
	return hex.EncodeToString(sum[:])
}

// judge sorts the signatures: good ones by listed keys, bad ones in the name of listed
// keys, and those of keys that are not listed.
func (d *document) judge(listed map[string]ed25519.PublicKey) (good, bad, strangers []string) {
	for _, sig := range d.signatures {
		key, ok := listed[sig.KeyID]
		switch {
		case !ok:
			strangers = append(strangers, sig.KeyID)
		case ed25519.Verify(key, d.payload, sig.Signature):
			good = append(good, sig.KeyID)
		default:
			bad = append(bad, sig.KeyID)
		}
	}
	return good, bad, strangers
}
