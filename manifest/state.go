package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// A State keeps verified metadata between boots, so that an older release is refused as a
// rollback. It is a folder with one subfolder for each repository:
//
//	DIR/ID/N.root.json        the root of the image and every newer one
//	DIR/ID/timestamp.json     the newest of each, without a version in the name
//	DIR/ID/snapshot.json
//	DIR/ID/targets.json
//	DIR/ID/CHANNEL-ARCH.json
//
// ID is a hash of the root keys and the threshold of the first root that the machine trusted. A
// machine with a newer root and other root keys finds the subfolder by the copy of that root in
// it.
//
// The folder is not trusted: every file from it is linted and verified again, and an invalid file
// counts as missing. A subfolder is replaced as a whole, so that after a power cut it has the old
// set of files or the new one, never a mix. A nil State keeps nothing.
type State struct {
	dir      string
	readOnly bool
	disk     disk
}

var idGrammar = regexp.MustCompile(`^[0-9a-f]{32}$`)

// maxRepositories bounds the search for the subfolder of a repository.
const maxRepositories = 64

// OpenState opens a state folder, and makes it when it is missing. A symbolic link is refused.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := file.CheckFolder(dir); err != nil {
		return nil, fmt.Errorf("state: %w; remove it", err)
	}
	return newState(dir, false), nil
}

func newState(dir string, readOnly bool) *State {
	return &State{dir: dir, readOnly: readOnly, disk: retryingDisk{osDisk{}, time.Sleep}}
}

// OpenStateReadOnly opens a state folder, which may be missing, and never writes it.
func OpenStateReadOnly(dir string) *State {
	return newState(dir, true)
}

// of returns the state of the repository that root belongs to.
func (s *State) of(root *Root) *repositoryState {
	if s == nil {
		return &repositoryState{}
	}
	m := &repositoryState{disk: s.disk, readOnly: s.readOnly, reads: map[string]readResult{}}
	m.dir, m.failed = s.find(root)
	return m
}

// find returns the path of the subfolder of the repository that root belongs to. When the disk
// cannot be read, the error wraps ErrState.
func (s *State) find(root *Root) (string, error) {
	dir := filepath.Join(s.dir, root.stateID())
	if ok, err := s.isDir(s.dir); !ok || err != nil {
		return dir, err // readFile refuses a symbolic link
	}
	ok, err := s.isDir(dir)
	if ok || err != nil {
		return dir, err
	}
	return s.findByRoot(root, dir)
}

// findByRoot returns the subfolder that has a copy of root, dir if there is none. Such a subfolder
// was made with an older root.
func (s *State) findByRoot(root *Root, dir string) (string, error) {
	entries, err := s.disk.list(s.dir)
	if err != nil {
		return dir, stateError(err)
	}
	name := FileName(roleRoot, root.Version())
	for _, e := range entries[:min(len(entries), maxRepositories)] {
		other := filepath.Join(s.dir, e.Name())
		if !idGrammar.MatchString(e.Name()) || !e.IsDir() {
			continue
		}
		data, err := s.disk.read(filepath.Join(other, name), MaxRoot)
		if err == nil && bytes.Equal(data, root.doc.data) {
			return other, nil
		}
		if stateError(err) != nil {
			return dir, err
		}
	}
	return dir, nil
}

// stateError returns err if it wraps ErrState, otherwise nil.
func stateError(err error) error {
	if errors.Is(err, ErrState) {
		return err
	}
	return nil
}

// NewestRoot follows the roots after root in the state and returns the last valid one, or root
// itself. It writes nothing.
func (s *State) NewestRoot(root *Root) *Root {
	m := s.of(root)
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

func (s *State) isDir(path string) (bool, error) {
	info, err := s.disk.stat(path)
	return err == nil && info.IsDir(), stateError(err)
}

// repositoryState is the state of one repository. Its zero value keeps nothing.
type repositoryState struct {
	dir      string
	disk     disk
	readOnly bool
	reads    map[string]readResult // by file name, to find changes by other programs
	failed   error                 // the first ErrState: nothing may be accepted after it
}

// A readResult is the content of a file when it was read, nil when it could not be read.
type readResult struct {
	data []byte
	kind Kind
}

// read reads a file of the state. A missing file wraps fs.ErrNotExist.
func (m *repositoryState) read(name string, kind Kind) ([]byte, error) {
	if m.dir == "" {
		return nil, os.ErrNotExist
	}
	data, err := m.readFile(name, kind.Max())
	if err != nil {
		data = nil
	}
	m.reads[name] = readResult{data, kind}
	if m.failed == nil {
		m.failed = stateError(err)
	}
	return data, err
}

// A stateFile is a file that the state will keep.
type stateFile struct {
	name string
	data []byte
}

// Metadata implements Fetcher, for LastGood: the state is the only source then.
func (m *repositoryState) Metadata(_ context.Context, name string, max int64) ([]byte, error) {
	role, _, ok := SplitFile(name)
	if !ok || m.dir == "" {
		return nil, os.ErrNotExist
	}
	if role != roleRoot {
		name = role + ".json"
	}
	return m.readFile(name, max)
}

func (m *repositoryState) readFile(name string, max int64) ([]byte, error) {
	for _, dir := range []string{filepath.Dir(m.dir), m.dir} {
		if err := file.CheckFolder(dir); errors.Is(err, file.ErrKind) {
			return nil, malformed("%v", err)
		}
	}
	return m.disk.read(filepath.Join(m.dir, name), max)
}

// readState reads a regular file and follows no symbolic link: an attacker may have written to
// the folder.
func readState(path string, max int64) ([]byte, error) {
	return readBounded(path, max, file.NoFollow)
}
