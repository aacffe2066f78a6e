package bootset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/fat32"
)

// A File is a file of a new set.
type File struct {
	io.ReaderAt
	Size   int64
	SHA256 string // in hex
}

// An Update is a new set, from a release that was verified.
type Update struct {
	Number            int64 // role version of the release
	Release           string
	SignedAt          time.Time
	Kernel, Initramfs File
	Running           int64    // number of the set that is running, 0 for the built one or none
	Modes             []string // boot modes that may write to the stick, and so bless the set
}

// ID names the set.
func (u Update) ID() ID { return ID{u.Number, Digest(u.Kernel.SHA256, u.Initramfs.SHA256)} }

// Reasons to leave a stick as it is.
var (
	ErrUpToDate = errors.New("up to date")        // it has this set
	ErrOlder    = errors.New("older boot set")    // of a release that is not newer than that of a set of the stick
	ErrNoWriter = errors.New("no mode may write") // nothing would bless the set
)

// Check returns why a set is not written: ErrUpToDate, ErrOlder, ErrNoWriter, or fat32.ErrFull. It reads no file of
// the set.
func (s *Stick) Check(u Update) error {
	id := u.ID()
	for _, set := range s.sets {
		if set.Digest == id.Digest {
			return fmt.Errorf("%w: the stick has this boot set, number %d; %s", ErrUpToDate, set.Number, set.Words())
		}
	}
	same, err := s.isBuilt(u)
	switch {
	case err != nil:
		return err
	case same:
		return fmt.Errorf("%w: the stick was built with this boot set", ErrUpToDate)
	case len(s.sets) > 0 && u.Number <= s.sets[len(s.sets)-1].Number:
		return fmt.Errorf("%w: number %d; the stick has number %d", ErrOlder, u.Number, s.sets[len(s.sets)-1].Number)
	case len(s.trialModes(u)) == 0:
		return fmt.Errorf("%w to the stick, so none could record that the boot set starts; write a new image to it", ErrNoWriter)
	}
	return s.checkRoom(u)
}

// isBuilt reports whether the stick was built with these files.
func (s *Stick) isBuilt(u Update) (bool, error) {
	for name, want := range map[string]File{KernelFile: u.Kernel, InitramfsFile: u.Initramfs} {
		f, err := s.vol.Open(path.Join(s.at.folder, name))
		if err != nil {
			return false, err
		}
		if f.Size() != want.Size {
			return false, nil
		}
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil {
			return false, err
		}
		if hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
			return false, nil
		}
	}
	return true, nil
}

// trialModes returns the modes in which a new set is started. A mode that must not write keeps the set of
// before: systemd-boot would count the starts on the stick.
func (s *Stick) trialModes(u Update) (modes []string) {
	for mode := range s.built {
		if slices.Contains(u.Modes, mode) {
			modes = append(modes, mode)
		}
	}
	slices.Sort(modes)
	return modes
}

// obsolete returns the sets that a new one replaces: all but the one that is running and the last blessed one.
func (s *Stick) obsolete(u Update) (list []Set) {
	last := int64(0)
	for _, set := range s.sets {
		if set.Blessed() {
			last = set.Number
		}
	}
	for _, set := range s.sets {
		if set.Number != u.Running && set.Number != last {
			list = append(list, set)
		}
	}
	return list
}

// entryRoom is how many clusters the folder and the boot entries of a set take at most, beside one for each entry.
const entryRoom = 8

func (s *Stick) checkRoom(u Update) error {
	free := s.vol.Free()
	for _, id := range s.unknown {
		free += s.size(id)
	}
	for _, set := range s.obsolete(u) {
		free += s.size(set.ID)
	}
	need := s.vol.Room(u.Kernel.Size) + s.vol.Room(u.Initramfs.Size) + s.vol.Room(1)*int64(entryRoom+2*len(s.built))
	if need > free {
		return fmt.Errorf("the boot set needs %d MiB of the EFI system partition, which has %d MiB for it: %w; write a new image to the stick", need>>20+1, free>>20, fat32.ErrFull)
	}
	return nil
}

// size returns how many bytes the files of a set take.
func (s *Stick) size(id ID) (n int64) {
	entries, err := s.vol.ReadDir(s.folder(id))
	if err != nil {
		return 0
	}
	for _, e := range entries {
		n += s.vol.Room(e.Size)
	}
	return n
}

// Write writes a new set for which Check has no objection, and removes those that it replaces. Its boot entries
// come last.
func (s *Stick) Write(ctx context.Context, u Update) error {
	if err := s.Check(u); err != nil {
		return err
	}
	s.vol.Date = u.SignedAt
	gone := s.obsolete(u)
	for _, set := range gone {
		if err := s.remove(set); err != nil {
			return err
		}
	}
	if err := s.Mend(); err != nil {
		return err
	}
	s.sets = slices.DeleteFunc(s.sets, func(old Set) bool {
		return slices.ContainsFunc(gone, func(set Set) bool { return set.Number == old.Number })
	})
	set := Set{ID: u.ID(), Release: u.Release}
	if err := s.writeFiles(ctx, set.ID, u); err != nil {
		return errors.Join(err, s.undo(set.ID))
	}
	for _, mode := range s.trialModes(u) {
		n := Name{Mode: mode, Arch: s.at.arch, Number: set.Number, Counted: true, Left: Tries}
		if err := s.addEntry(n, set); err != nil {
			return err
		}
		set.Names = append(set.Names, n)
	}
	s.sets = append(s.sets, set)
	return nil
}

// Mend removes what a renewal has left that was cut.
func (s *Stick) Mend() error {
	for _, id := range s.unknown {
		if err := s.removeFiles(id); err != nil {
			return err
		}
	}
	s.unknown = nil
	return s.vol.Mend()
}

// undo removes the files of a set that could not be written.
func (s *Stick) undo(id ID) error {
	if err := s.removeFiles(id); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Stick) writeFiles(ctx context.Context, id ID, u Update) error {
	if err := s.vol.Mkdir(s.folder(id)); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		File
	}{{KernelFile, u.Kernel}, {InitramfsFile, u.Initramfs}} {
		if err := s.writeFile(ctx, path.Join(s.folder(id), f.name), f.File); err != nil {
			return err
		}
	}
	return nil
}

// A reader stops when its context ends.
type reader struct {
	io.Reader
	ctx context.Context
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// writeFile writes a file of a set, and refuses other bytes than the signed ones.
func (s *Stick) writeFile(ctx context.Context, name string, f File) error {
	h := sha256.New()
	if err := s.vol.Create(name, f.Size, io.TeeReader(reader{io.NewSectionReader(f, 0, f.Size), ctx}, h)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%s: sha256 is %s, signed is %s", name, got, f.SHA256)
	}
	return nil
}

func (s *Stick) addEntry(n Name, set Set) error {
	text := Text(s.built[n.Mode], s.at.arch, set.ID, set.Release)
	return s.vol.Create(path.Join(EntriesFolder, n.String()), int64(len(text)), strings.NewReader(text))
}

// Bless makes systemd-boot start a set without counting, in all modes.
func (s *Stick) Bless(number int64) error {
	set, ok := s.Set(number)
	if !ok {
		return fmt.Errorf("boot set %d: %w", number, fs.ErrNotExist)
	}
	var kept []Name
	for mode := range s.built {
		n := Name{Mode: mode, Arch: s.at.arch, Number: number}
		kept = append(kept, n)
		if slices.Contains(set.Names, n) {
			continue
		}
		if err := s.addEntry(n, set); err != nil {
			return err
		}
	}
	for _, n := range set.Names {
		if n.Counted {
			if err := s.vol.Remove(path.Join(EntriesFolder, n.String())); err != nil {
				return err
			}
		}
	}
	i := slices.IndexFunc(s.sets, func(set Set) bool { return set.Number == number })
	s.sets[i].Names = kept
	return nil
}

// NeedsBless reports whether Bless has something to write.
func (s *Stick) NeedsBless(number int64) bool {
	set, ok := s.Set(number)
	return ok && (slices.ContainsFunc(set.Names, func(n Name) bool { return n.Counted }) || len(set.Names) < len(s.built))
}

// remove removes the entries of a set, and then its files.
func (s *Stick) remove(set Set) error {
	for _, n := range set.Names {
		if err := s.vol.Remove(path.Join(EntriesFolder, n.String())); err != nil {
			return err
		}
	}
	return s.removeFiles(set.ID)
}

func (s *Stick) removeFiles(id ID) error {
	entries, err := s.vol.ReadDir(s.folder(id))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.vol.Remove(path.Join(s.folder(id), e.Name)); err != nil {
			return err
		}
	}
	return s.vol.Remove(s.folder(id))
}
