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
	disk     disk
}

var idGrammar = regexp.MustCompile(`^[0-9a-f]{32}$`)

// maxRepositories bounds the search for a repository's subfolder.
const maxRepositories = 64

// OpenState opens a state folder, and makes it when it is not there. A symbolic link is no
// folder.
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
	return &State{dir: dir, readOnly: readOnly, disk: patientDisk{osDisk{}, time.Sleep}}
}

// OpenStateReadOnly reads a state folder, which need not exist, and never writes it.
func OpenStateReadOnly(dir string) *State {
	return newState(dir, true)
}

// repository finds the subfolder of the repository that root belongs to.
func (s *State) repository(root *Root) *memory {
	if s == nil {
		return &memory{}
	}
	m := &memory{disk: s.disk, readOnly: s.readOnly, seen: map[string]sight{}}
	m.dir, m.failed = s.find(root)
	return m
}

// find returns the path of the subfolder of the repository that root belongs to. Where
// the disk cannot tell, the error wraps ErrState.
func (s *State) find(root *Root) (string, error) {
	dir := filepath.Join(s.dir, root.id())
	if ok, err := s.isDir(s.dir); !ok || err != nil {
		return dir, err // a link is followed nowhere: readState says what it is
	}
	ok, err := s.isDir(dir)
	if ok || err != nil {
		return dir, err
	}
	return s.older(root, dir)
}

// older finds the subfolder that was begun with an older root, dir if there is none.
func (s *State) older(root *Root, dir string) (string, error) {
	entries, err := s.disk.list(s.dir)
	if err != nil {
		return dir, unread(err)
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
		if unread(err) != nil {
			return dir, err
		}
	}
	return dir, nil
}

// unread is err if it says nothing of the file: it wraps ErrState.
func unread(err error) error {
	if errors.Is(err, ErrState) {
		return err
	}
	return nil
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

func (s *State) isDir(path string) (bool, error) {
	info, err := s.disk.stat(path)
	return err == nil && info.IsDir(), unread(err)
}

// memory is the state of one repository; its zero value remembers nothing.
type memory struct {
	dir      string
	disk     disk
	readOnly bool
	seen     map[string]sight // what was read from it
	failed   error            // the first ErrState: no verdict may rest on what was read
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
	data, err := m.readFile(name, kind.Max())
	if err != nil {
		data = nil
	}
	m.seen[name] = sight{data, kind}
	if m.failed == nil {
		m.failed = unread(err)
	}
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
	return m.readFile(name, max)
}

func (m *memory) readFile(name string, max int64) ([]byte, error) {
	for _, dir := range []string{filepath.Dir(m.dir), m.dir} {
		if err := file.CheckFolder(dir); errors.Is(err, file.ErrKind) {
			return nil, malformed("%v", err)
		}
	}
	return m.disk.read(filepath.Join(m.dir, name), max)
}

// readState follows no symlink: a stranger may have written to the folder.
func readState(path string, max int64) ([]byte, error) {
	return readBounded(path, max, file.NoFollow)
}
