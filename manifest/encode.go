package manifest

import (
	"encoding/hex"
	"encoding/json"
	"sort"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// releaseFields is the field x-phaseboot of a release manifest: what concerns the
// whole release. A later version may add fields; those that a reader must not ignore
// it lists in critical, and a reader that does not know one of them refuses.
type releaseFields struct {
	Repository string   `json:"repository,omitempty"`
	Channel    string   `json:"channel"`
	Arch       string   `json:"arch"`
	Release    string   `json:"release"`
	Cmdline    string   `json:"cmdline"`
	MinRAM     int64    `json:"min_ram"`   // MiB
	SignedAt   string   `json:"signed_at"` // timeLayout
	Job        string   `json:"job"`       // role of the job, or ""
	Critical   []string `json:"critical,omitempty"`
}

var releaseFieldNames = []string{repositoryField, "channel", "arch", "release", "cmdline", "min_ram", "signed_at", "job", "critical"}

// artifactFields is the custom object of a target.
type artifactFields struct {
	CID     string `json:"cid"`
	Chunker string `json:"chunker"`
	Role    string `json:"role"`
}

// Encode writes a release as its delegated role, unsigned: one target for each
// artifact under CHANNEL/ARCH/ROLE and the release's own fields in x-phaseboot. The
// result has passed Decode, so a release that no machine would read is refused here,
// with an error that wraps ErrMalformed. Dates are cut to whole seconds.
func Encode(r Release) (*metadata.Metadata[metadata.TargetsType], error) {
	role := metadata.Targets(r.Expires.UTC().Truncate(time.Second))
	role.Signed.Version = r.Number
	role.Signed.UnrecognizedFields = map[string]any{extension: releaseFields{
		Repository: r.Repository, Channel: r.Channel, Arch: r.Arch, Release: r.Version, Cmdline: r.Cmdline,
		MinRAM: r.MinRAM, SignedAt: r.SignedAt.UTC().Format(timeLayout), Job: r.Job,
	}}
	for _, a := range r.Artifacts {
		path := targetPath(r.Channel, r.Arch, a.Role)
		if _, twice := role.Signed.Targets[path]; twice {
			return nil, malformed("artifact %.80q: named twice", a.Role)
		}
		target, err := encodeArtifact(a)
		if err != nil {
			return nil, err
		}
		role.Signed.Targets[path] = target
	}
	data, err := Bytes(KindRole, role)
	if err != nil {
		return nil, err
	}
	if _, err := Decode(role, r.Channel, r.Arch); err != nil {
		return nil, err
	}
	return metadata.Targets().FromBytes(data)
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

// Bytes is the file form of metadata of one kind, indented JSON with a final newline.
// What Lint would refuse is refused here, so that nothing unreadable is published.
func Bytes[T metadata.Roles](kind Kind, m *metadata.Metadata[T]) ([]byte, error) {
	data, err := m.ToBytes(true)
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	return data, Lint(kind, data)
}

// Parse reads metadata of one kind after Lint. It checks no signature.
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

func sortArtifacts(list []Artifact) {
	sort.Slice(list, func(i, j int) bool { return list[i].Role < list[j].Role })
}
