package manifest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/phaseboot/phaseboot/internal/file"
)

// A State remembers trusted metadata between boots, so that nothing older is taken
// for new. It is a folder with one subfolder for each repository:
//
//	DIR/ID/N.root.json        every root seen after the baked one, and that one
//	DIR/ID/timestamp.json     the newest of each, without a version in the name
//	DIR/ID/snapshot.json
//	DIR/ID/targets.json
//	DIR/ID/CHANNEL-ARCH.json
//
// ID is a hash of the root keys and threshold of the first root that the machine
// trusted. A machine that is given a newer root with other root keys finds the
// subfolder by the copy of that root in it.
//
// The folder proves nothing by itself: whatever is read from it is linted and verified
// again, and what does not pass is as good as absent. A subfolder is replaced as a whole, so
// that a power cut leaves the old set or the new one, never a mix that fits together with
// nothing. A nil State remembers nothing.
type State struct {
	dir      string
	readOnly bool
}

var idGrammar = regexp.MustCompile(`^[0-9a-f]{32}$`)

// maxRepositories bounds the search for a repository's subfolder.
const maxRepositories = 64

// OpenState opens a state folder, and makes it when it is not there.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return &State{dir: dir}, nil
}

// OpenStateReadOnly reads a state folder, which need not exist, and never writes it.
func OpenStateReadOnly(dir string) *State {
	return &State{dir: dir, readOnly: true}
}

// repository finds the subfolder of the repository that root belongs to.
func (s *State) repository(root *Root) *memory {
	if s == nil {
		return &memory{}
	}
	dir := filepath.Join(s.dir, root.id())
	if !isDir(dir) {
		dir = s.olderRepository(root, dir)
	}
	return &memory{dir: dir, readOnly: s.readOnly, seen: map[string]sight{}}
}

// olderRepository finds the subfolder that was begun with an older root, dir if there is none.
func (s *State) olderRepository(root *Root, dir string) string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return dir
	}
	name := FileName(roleRoot, root.Version())
	for _, e := range entries[:min(len(entries), maxRepositories)] {
		other := filepath.Join(s.dir, e.Name())
		if !idGrammar.MatchString(e.Name()) || !isDir(other) {
			continue
		}
		if data, err := readState(filepath.Join(other, name), MaxRoot); err == nil && bytes.Equal(data, root.doc.data) {
			return other
		}
	}
	return dir
}

// NewestRoot follows the remembered roots after root and returns the last that is good,
// root itself when none is. It writes nothing; a nil State remembers nothing.
func (s *State) NewestRoot(root *Root) *Root {
	m := s.repository(root)
	for range maxRoots {
		data, err := m.read(FileName(roleRoot, root.Version()+1), KindRoot)
		if err != nil {
			break
		}
		next, err := root.Next(data)
		if err != nil {
			break
		}
		root = next
	}
	return root
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// memory is the state of one repository; its zero value remembers nothing.
type memory struct {
	dir      string
	readOnly bool
	seen     map[string]sight // what was read from it
}

// sight is what a file was when it was read, nil when it could not be.
type sight struct {
	data []byte
	kind Kind
}

// read returns a remembered file; what is not there wraps fs.ErrNotExist.
func (m *memory) read(name string, kind Kind) ([]byte, error) {
	if m.dir == "" {
		return nil, os.ErrNotExist
	}
	data, err := readState(filepath.Join(m.dir, name), kind.Max())
	if err != nil {
		data = nil
	}
	m.seen[name] = sight{data, kind}
	return data, err
}

type stateFile struct {
	name string
	data []byte
}

// Metadata makes the state a source of its own, for the last release that was good.
func (m *memory) Metadata(_ context.Context, name string, max int64) ([]byte, error) {
	role, _, ok := splitFile(name)
	if !ok || m.dir == "" {
		return nil, os.ErrNotExist
	}
	if role != roleRoot {
		name = role + ".json"
	}
	return readState(filepath.Join(m.dir, name), max)
}

// readState follows no symlink: a stranger may have written to the folder.
func readState(path string, max int64) ([]byte, error) {
	return readBounded(path, max, file.NoFollow)
}
