package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A repository ID is 32 lower-case hex digits, 128 random bits. Every file has it as
// "repository" in the field x-phaseboot. Keys do not distinguish two repositories: with the same
// keys for both, a release of one has valid signatures for the machines of the other.

const (
	repositoryField = "repository"
	noRepository    = "none"
)

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

// sameRepository refuses a file of another repository, also when its signatures are valid.
func (r *Root) sameRepository(name string, d *Document) error {
	return inFile(name, d.CheckRepository(r.doc))
}

// CheckRepository refuses a document of another repository than root's, with an error that wraps
// ErrRepository.
func (d *Document) CheckRepository(root *Document) error {
	is, want := d.Repository(), root.Repository()
	if is == want {
		return nil
	}
	return refuse(ErrRepository, "made for repository %s, and root.json is that of repository %s; %s", orNone(is), orNone(want), rightRoot)
}

func orNone(id string) string {
	if id == "" {
		return noRepository
	}
	return id
}

// repositoryID checks the ID in the field x-phaseboot, if it is there.
func (l *linter) repositoryID(path string, x object) {
	if v, ok := x[repositoryField]; ok {
		l.match(join(path, repositoryField), v, repositoryGrammar, "a repository ID of 32 lower-case hex digits")
	}
}

// onlyRepository checks the field x-phaseboot of a file in which the ID is the only known
// field.
func (l *linter) onlyRepository(signed object) {
	v, ok := signed[extension]
	if !ok {
		return
	}
	path := "signed." + extension
	x := l.object(path, v)
	l.known(path, x, repositoryField)
	l.repositoryID(path, x)
}
