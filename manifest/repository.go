package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A repository ID is 32 lower-case hex digits, 128 random bits. It stands as "repository"
// in the field x-phaseboot of every file. Keys do not tell two repositories apart: one
// person may use the same keys for both, and then a release of the one would have good
// signatures for the machines of the other.

const (
	repositoryField = "repository"
	noRepository    = "none"
)

var repositoryGrammar = regexp.MustCompile(`^[0-9a-f]{32}$`)

// NewRepositoryID makes the ID of a new repository.
func NewRepositoryID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails: the program ends instead
	return hex.EncodeToString(id[:])
}

// SetRepository writes a repository's ID into targets, a snapshot or a timestamp before
// they are signed. An empty ID changes nothing. A root and a release take theirs from
// RootSpec and Release.
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

// ReadRepository is the repository ID in metadata that passed Lint, "" for none. It checks
// no signature.
func ReadRepository[T metadata.Roles](m *metadata.Metadata[T]) string {
	var fields map[string]any
	switch signed := any(&m.Signed).(type) {
	case *metadata.RootType:
		fields = signed.UnrecognizedFields
	case *metadata.TargetsType:
		fields = signed.UnrecognizedFields
	case *metadata.SnapshotType:
		fields = signed.UnrecognizedFields
	case *metadata.TimestampType:
		fields = signed.UnrecognizedFields
	}
	x, _ := fields[extension].(map[string]any)
	id, _ := x[repositoryField].(string)
	return id
}

// repository is the ID in a file, "" for none.
func (d *document) repository() string {
	id, _ := d.extension()[repositoryField].(string)
	return id
}

// Repository is the ID of the repository, "" for a root from before there were IDs.
func (r *Root) Repository() string { return r.doc.repository() }

// sameRepository refuses a file that another repository made, whoever signed it.
func (r *Root) sameRepository(name string, d *document) error {
	is, want := d.repository(), r.Repository()
	if is == want {
		return nil
	}
	return refuse(ErrRepository, "%s: made for repository %s, and root.json is that of repository %s; %s",
		name, orNone(is), orNone(want), rightRoot)
}

func orNone(id string) string {
	if id == "" {
		return noRepository
	}
	return id
}

// repositoryID checks the ID in the field x-phaseboot, where there is one.
func (l *linter) repositoryID(path string, x object) {
	if v, ok := x[repositoryField]; ok {
		l.match(join(path, repositoryField), v, repositoryGrammar, "a repository ID of 32 lower-case hex digits")
	}
}

// onlyRepository checks the field x-phaseboot of a file in which it holds nothing else
// that we know.
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
