package manifest

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// releaseFieldNames are in the field x-phaseboot of a release manifest, which describes the whole
// release. A later version may add fields. A field that a reader must not ignore is listed in
// critical; a reader that does not know it refuses the release.
var releaseFieldNames = []string{repositoryField, "channel", "arch", "release", "cmdline", "min_ram", "signed_at", "job", "submitters", "number", rolloutField, earlierField, "fallback_floor", blessField, "critical"}

// artifactFields is the custom field of a target.
type artifactFields struct {
	CID     string `json:"cid"`
	Chunker string `json:"chunker"`
	Role    string `json:"role"`
}

// Encode returns a release as an unsigned delegated role: one target CHANNEL/ARCH/ROLE for each
// artifact, CHANNEL/ARCH/earlier-NUMBER-ROLE for each of an earlier release, and the fields of the release in x-phaseboot. The result has passed Open: a release
// that machines refuse wraps ErrMalformed. Dates are cut to whole seconds. The file, without
// signatures, dates and hashes:
//
//	{"_type": "targets", "version": 7,
//	 "targets": {"stable/x86_64/kernel": {"length": 8123456,
//	   "custom": {"cid": "bafy…", "chunker": "zstd-4096-…", "role": "kernel"}}},
//	 "x-phaseboot": {"channel": "stable", "arch": "x86_64", "release": "2026.10",
//	   "cmdline": "console=ttyS0", "min_ram": 512, "job": "job/hello.wasm",
//	   "signed_at": "2026-10-01T12:00:00Z"}}
func Encode(r Release) (*metadata.Metadata[metadata.TargetsType], error) {
	role := metadata.Targets(r.Expires.UTC().Truncate(time.Second))
	role.Signed.Version = r.Number
	fields := object{
		"channel": r.Channel, "arch": r.Arch, "release": r.Version, "cmdline": r.Cmdline,
		"min_ram": r.MinRAM, "signed_at": r.SignedAt.UTC().Format(timeLayout), "job": r.Job,
	}
	if r.Repository != "" {
		fields[repositoryField] = r.Repository
	}
	if len(r.Submitters) > 0 {
		fields["submitters"] = r.Submitters
	}
	r.encodeBless(fields)
	r.encodeRollout(fields)
	role.Signed.UnrecognizedFields = object{extension: fields}
	for i, one := range r.All() {
		for _, a := range one.Artifacts {
			path := a.Role
			if i > 0 {
				path = earlierPath(one.First, a.Role)
			}
			path = targetPath(r.Channel, r.Arch, path)
			if _, twice := role.Signed.Targets[path]; twice {
				return nil, malformed("artifact %.80q: named twice", a.Role)
			}
			target, err := encodeArtifact(a)
			if err != nil {
				return nil, err
			}
			role.Signed.Targets[path] = target
		}
	}
	d, err := NewDocument(KindRole, role)
	if err != nil {
		return nil, err
	}
	return metadata.Targets().FromBytes(d.data)
}

func encodeArtifact(a Artifact) (*metadata.TargetFiles, error) {
	sum, err := hex.DecodeString(a.SHA256)
	if err != nil {
		return nil, malformed("artifact %.80q: sha256 %.80q is not hex", a.Role, a.SHA256)
	}
	if !a.CID.Defined() {
		return nil, malformed("artifact %.80q: no CID", a.Role)
	}
	custom, err := json.Marshal(artifactFields{a.CID.String(), a.Chunker, a.Role})
	if err != nil {
		return nil, err
	}
	target := metadata.TargetFile()
	target.Length = a.Length
	target.Hashes["sha256"] = sum
	target.Custom = (*json.RawMessage)(&custom)
	return target, nil
}

func targetPath(channel, arch, role string) string {
	return channel + "/" + arch + "/" + role
}

// Bytes returns the file of metadata of one kind: indented JSON with a final newline. Metadata
// that Lint refuses wrap ErrMalformed.
func Bytes[T metadata.Roles](kind Kind, m *metadata.Metadata[T]) ([]byte, error) {
	data, err := m.ToBytes(true)
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	return data, Lint(kind, data)
}

// Parse lints and reads metadata of one kind. It checks no signature.
func Parse[T metadata.Roles](kind Kind, data []byte) (*metadata.Metadata[T], error) {
	if err := Lint(kind, data); err != nil {
		return nil, err
	}
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return nil, malformed("%v", err)
	}
	return m, nil
}
