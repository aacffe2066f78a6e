package manifest

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"regexp"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A repository ID is 32 lower-case hex digits, 128 random bits. Every file has it as
// "repository" in the field x-phaseboot. Keys do not distinguish two repositories: with the same
// keys for both, a release of one has valid signatures for the machines of the other.

const repositoryField = "repository"

var repositoryGrammar = regexp.MustCompile(`^[0-9a-f]{32}$`)

// NewRepositoryID makes the ID of a new repository.
func NewRepositoryID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never returns an error
	return hex.EncodeToString(id[:])
}

// SetRepository writes a repository ID into unsigned targets, a snapshot or a timestamp. An
// empty ID changes nothing. RootSpec and Release have the ID of a root and of a release.
func SetRepository[T metadata.Roles](m *metadata.Metadata[T], id string) {
	if id == "" {
		return
	}
	var fields *map[string]any
	switch signed := any(&m.Signed).(type) {
	case *metadata.TargetsType:
		fields = &signed.UnrecognizedFields
	case *metadata.SnapshotType:
		fields = &signed.UnrecognizedFields
	case *metadata.TimestampType:
		fields = &signed.UnrecognizedFields
	default:
		return
	}
	x := map[string]any{repositoryField: id}
	if old, ok := (*fields)[extension].(map[string]any); ok {
		for name, v := range old {
			if name != repositoryField {
				x[name] = v
			}
		}
	}
	*fields = map[string]any{extension: x}
}

// Repository is the repository ID in the file, "" when it has none.
func (d *Document) Repository() string {
	id, _ := d.extension()[repositoryField].(string)
	return id
}

// Repository is the ID of the repository, "" for a root that was made before there were IDs.
func (r *Root) Repository() string { return r.doc.Repository() }

// CheckRepository refuses a document of another repository than root's, also when its signatures
// are valid, with an error that wraps ErrRepository.
func (d *Document) CheckRepository(root *Document) error {
	is, want := d.Repository(), root.Repository()
	if is == want {
		return nil
	}
	return refuse(ErrRepository, "made for repository %s, and root.json is that of repository %s; %s", cmp.Or(is, "none"), cmp.Or(want, "none"), rightRoot)
}
