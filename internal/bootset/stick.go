package bootset

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/fat32"
)

// ErrNoCounting is the error for a stick without systemd-boot's menu: nothing would count the starts of a new set.
var ErrNoCounting = errors.New("a boot set is renewed only under systemd-boot, which counts its starts; write a new image to the stick")

// maxText bounds a settings file of the loader in bytes.
const maxText = 8 << 10

// A Stick is an EFI system partition with the boot sets of one architecture.
type Stick struct {
	vol     *fat32.Volume
	at      layout
	built   map[string]string // boot entries of the set that the stick was built with, by mode
	sets    []Set             // renewed ones, the oldest first
	unknown []ID              // folders of interrupted renewals, which have no entry
}

// A Set is a renewed set.
type Set struct {
	ID
	Release string `json:"release"`
	Names   []Name `json:"-"` // of its boot entries
}

// Blessed reports whether the set has started a release: systemd-boot does not count its starts any more.
func (s Set) Blessed() bool {
	return slices.ContainsFunc(s.Names, func(n Name) bool { return !n.Counted })
}

// Left returns how many starts a set has left that is not blessed, in the mode that was tried most. systemd-boot
// counts each mode.
func (s Set) Left() int {
	left := Tries
	for _, n := range s.Names {
		left = min(left, n.Left)
	}
	return left
}

// Words describes the state of a set.
func (s Set) Words() string {
	switch {
	case s.Blessed():
		return "it has started a release"
	case s.Left() == 0:
		return fmt.Sprintf("it has started no release in %d tries", Tries)
	}
	return fmt.Sprintf("on trial, %d of %d tries left", s.Left(), Tries)
}

// Open reads the sets of an architecture. It writes nothing. A partition without the menu of systemd-boot is
// ErrNoCounting, a damaged one wraps fat32.ErrLayout.
func Open(d fat32.Device, size int64, arch string) (*Stick, error) {
	at, ok := layoutOf(arch)
	if !ok {
		return nil, fmt.Errorf("architecture %.40q: %w", arch, ErrNoCounting)
	}
	vol, err := fat32.Open(d, size)
	if err != nil {
		return nil, err
	}
	s := &Stick{vol: vol, at: at, built: map[string]string{}}
	if err := s.checkMenu(); err != nil {
		return nil, err
	}
	return s, s.readEntries()
}

// Sets returns the renewed sets, the oldest first.
func (s *Stick) Sets() []Set { return slices.Clone(s.sets) }

// Set returns the set of a number.
func (s *Stick) Set(number int64) (Set, bool) {
	i := slices.IndexFunc(s.sets, func(set Set) bool { return set.Number == number })
	if i < 0 {
		return Set{}, false
	}
	return s.sets[i], true
}

// Options returns the kernel command line of each mode.
func (s *Stick) Options() map[string]string {
	all := map[string]string{}
	for mode, text := range s.built {
		for line := range strings.Lines(text) {
			if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "options" {
				all[mode] = strings.TrimSpace(value)
			}
		}
	}
	return all
}

// checkMenu refuses a stick whose menu starts only the set that it was built with.
func (s *Stick) checkMenu() error {
	text, err := s.text(MenuFile)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoCounting
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "default" && !strings.HasSuffix(value, DefaultPattern) {
			return errors.New("the boot menu was built before sticks could be renewed; write a new image to the stick")
		}
	}
	return nil
}

// DefaultPattern ends the pattern of systemd-boot's default entry. It matches the entries of a mode in all sets, of
// which systemd-boot takes the newest that has starts left. No mode's name contains "." or "_".
const DefaultPattern = "[._]*"

func (s *Stick) text(name string) (string, error) {
	f, err := s.vol.Open(name)
	if err != nil {
		return "", err
	}
	if f.Size() > maxText {
		return "", fmt.Errorf("%s: more than %d bytes: %w", name, maxText, fat32.ErrLayout)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	return string(data), err
}

func (s *Stick) readEntries() error {
	names, err := s.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Number == 0 {
			if s.built[n.Mode], err = s.text(path.Join(EntriesFolder, n.String())); err != nil {
				return err
			}
		}
	}
	if len(s.built) == 0 {
		return fmt.Errorf("no boot entry for %s: %w", s.at.arch, ErrNoCounting)
	}
	folders, err := s.vol.ReadDir(s.at.folder)
	if err != nil {
		return err
	}
	for _, f := range folders {
		id, ok := ParseID(strings.ToLower(f.Name))
		if !ok || !f.IsDir {
			continue
		}
		if err := s.readSet(id, names); err != nil {
			return err
		}
	}
	slices.SortFunc(s.sets, func(a, b Set) int { return cmp.Compare(a.Number, b.Number) })
	return nil
}

// names lists the boot entries of the architecture.
func (s *Stick) names() (names []Name, err error) {
	entries, err := s.vol.ReadDir(EntriesFolder)
	for _, e := range entries {
		if n, ok := ParseName(strings.ToLower(e.Name)); ok && !e.IsDir && n.Arch == s.at.arch {
			names = append(names, n)
		}
	}
	return names, err
}

func (s *Stick) readSet(id ID, names []Name) error {
	set := Set{ID: id}
	for _, n := range names {
		if n.Number != id.Number {
			continue
		}
		text, err := s.text(path.Join(EntriesFolder, n.String()))
		if err != nil {
			return err
		}
		if release, ok := ReleaseOf(text, s.built[n.Mode], s.at.arch, id); ok {
			set.Release, set.Names = release, append(set.Names, n)
		}
	}
	if len(set.Names) == 0 {
		s.unknown = append(s.unknown, id)
		return nil
	}
	s.sets = append(s.sets, set)
	return nil
}

func (s *Stick) folder(id ID) string { return path.Join(s.at.folder, id.String()) }
