package modes

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/file"
)

// MaxModes limits the modes of a Set, the shipped ones included.
const MaxModes = 32

const extension = ".json"

//go:embed *.json
var shipped embed.FS

// A Set is the modes that a program or an image knows: the shipped ones, and files that add modes to them. Its
// zero value has the shipped ones. A file of the same name counts before the shipped one. A Set does not change.
type Set struct {
	files map[string][]byte // content of the files by name of the mode
}

// ReadDir returns the shipped modes and those of the files of a folder. A folder that does not exist has none.
// A malformed file is an error of Load for its name only, so that it does not take the other modes from a machine.
func ReadDir(dir string) (Set, error) {
	entries, err := file.ReadDir(dir, MaxModes)
	if errors.Is(err, fs.ErrNotExist) {
		return Set{}, nil
	}
	if err != nil {
		return Set{}, fmt.Errorf("boot modes in %s: %w", dir, err)
	}
	s := Set{files: map[string][]byte{}}
	for _, e := range entries {
		data, err := file.Read(filepath.Join(dir, e.Name()), file.NoFollow, MaxFile)
		if err != nil {
			return Set{}, fmt.Errorf("boot mode %.60q in %s: %w", e.Name(), dir, err)
		}
		s.files[strings.TrimSuffix(e.Name(), extension)] = data
	}
	return s, nil
}

// Of returns the shipped modes and those of files by name of the mode. It checks them.
func Of(files map[string][]byte) (Set, error) {
	s := Set{files: maps.Clone(files)}
	for name := range files {
		if _, err := s.Load(name); err != nil {
			return Set{}, err
		}
	}
	if len(s.Names()) > MaxModes {
		return Set{}, fmt.Errorf("%w: %d modes, at most %d", ErrMalformed, len(s.Names()), MaxModes)
	}
	return s, nil
}

// Add returns a set with the mode of one more file. It refuses the name of a mode that s has, unless the content
// is the same: what is known of a shipped mode, such as that private writes nothing, must be true in every image.
func (s Set) Add(path string, data []byte) (Set, error) {
	m, err := ParseFile(path, data)
	if err != nil {
		return s, err
	}
	if known, found := s.File(m.Name); found {
		if bytes.Equal(known, data) {
			return s, nil
		}
		return s, fmt.Errorf("boot mode %s: another mode has this name; rename the file, and the name in it", m.Name)
	}
	more := maps.Clone(s.files)
	if more == nil {
		more = map[string][]byte{}
	}
	more[m.Name] = data
	all, err := Of(more)
	if err != nil {
		return s, err
	}
	return all, nil
}

// ParseFile returns the mode of a file NAME.json with this content.
func ParseFile(path string, data []byte) (Mode, error) {
	name, found := strings.CutSuffix(filepath.Base(path), extension)
	if !found {
		return Mode{}, fmt.Errorf("%w %.60q: the file's name must be NAME.json", ErrMalformed, filepath.Base(path))
	}
	return parse(name, data)
}

// Parse returns the mode of a file with this content, whatever the file is called. An error wraps ErrMalformed.
func Parse(data []byte) (Mode, error) {
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(data, &named); err != nil {
		return Mode{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return parse(named.Name, data)
}

// Load returns a mode by its name. The error for an unknown name wraps fs.ErrNotExist and lists the known names.
func (s Set) Load(name string) (Mode, error) {
	data, found := s.File(name)
	if !found {
		return Mode{}, fmt.Errorf("boot mode %.40q: %w; use one of %s", name, fs.ErrNotExist, strings.Join(s.Names(), ", "))
	}
	return parse(name, data)
}

// File returns the content of a mode's file.
func (s Set) File(name string) ([]byte, bool) {
	if data, found := s.files[name]; found {
		return data, true
	}
	return Shipped(name)
}

// Shipped returns the content of the file of a mode that the programs contain.
func Shipped(name string) ([]byte, bool) {
	if !nameForm.MatchString(name) {
		return nil, false
	}
	data, err := shipped.ReadFile(name + extension)
	return data, err == nil
}

// Names lists the modes, Default first.
func (s Set) Names() []string {
	names := slices.Collect(maps.Keys(s.files))
	found, _ := fs.Glob(shipped, "*"+extension) // cannot fail: the pattern is valid
	for _, f := range found {
		names = append(names, strings.TrimSuffix(path.Base(f), extension))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	names = slices.DeleteFunc(names, func(name string) bool { return name == Default })
	return append([]string{Default}, names...)
}

// Own lists the modes that are not shipped, in the order of their names.
func (s Set) Own() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.files)), func(name string) bool {
		_, found := Shipped(name)
		return found
	})
}

// Available lists the modes that an image can boot, Default first: without Tor, those that do not
// need it.
func (s Set) Available(tor bool) []string {
	return slices.DeleteFunc(s.Names(), func(name string) bool {
		m, err := s.Load(name)
		return err != nil || m.Tor && !tor
	})
}

// Load returns a shipped mode, as [Set.Load].
func Load(name string) (Mode, error) { return Set{}.Load(name) }

// Names lists the shipped modes, Default first.
func Names() []string { return Set{}.Names() }
