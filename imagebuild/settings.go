package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/phaseboot/phaseboot/manifest"
)

// maxSetting bounds a file of /etc/phase in an initramfs, in bytes.
const maxSetting = 1 << 20

func (c *Contents) readInitramfsFile(_ context.Context, _ *Builder, f *os.File) error {
	c.Checks = []string{}
	return c.readInitramfs(f, c.Size, &c.System)
}

// readInitramfs reads /etc/phase, and computes the digests of the archive and of /init into s. All
// initramfs files of an image must have the same settings.
func (c *Contents) readInitramfs(r io.ReaderAt, size int64, s *System) error {
	s.Initramfs = size
	settings, err := readSettings(r, size)
	if err != nil {
		return err
	}
	if s.ArchiveSum, err = sumOf(io.NewSectionReader(r, 0, size)); err != nil {
		return err
	}
	return c.takeSettings(settings, s)
}

// takeSettings checks the settings of an initramfs and takes them.
func (c *Contents) takeSettings(settings *settings, s *System) (err error) {
	if s.Arch == "" {
		s.Arch = settings.arch
	}
	if settings.arch != s.Arch && settings.arch != "" {
		return badArchive("init: a program for %s, the loader is for %s", settings.arch, s.Arch)
	}
	s.Init, s.Modules = settings.init, settings.modules
	if s.Inputs, err = settings.inputs(); err != nil {
		return err
	}
	if c.settings != nil {
		return settings.same(c.settings)
	}
	c.settings = settings
	c.Role, c.Channel, c.BuildTime = settings.text("role"), settings.text("channel"), settings.text("build-time")
	if c.Tor, c.torrc = settings.tor, settings.torrc; c.torrc != nil {
		sum := sha256.Sum256(c.torrc)
		c.TorrcSum = hex.EncodeToString(sum[:])
	}
	c.root = settings.files["root.json"]
	if err := c.checkSettings(); err != nil {
		return err
	}
	return c.takeModes(settings.modes)
}

// same refuses an initramfs with other settings than first, which is that of another
// architecture.
func (s *settings) same(first *settings) error {
	for _, name := range settingNames {
		if !slices.Contains(ofOneArch, name) && !bytes.Equal(s.files[name], first.files[name]) {
			return badArchive("etc/phase/%s: differs from that of the other architecture", name)
		}
	}
	if !maps.EqualFunc(s.modes, first.modes, bytes.Equal) {
		return badArchive("%s: differs from that of the other architecture", modesPath)
	}
	if s.tor != first.tor || !bytes.Equal(s.torrc, first.torrc) {
		return badArchive("Tor: differs from that of the other architecture")
	}
	return nil
}

func (c *Contents) checkSettings() error {
	if _, err := strconv.ParseUint(c.BuildTime, 10, 33); err != nil {
		return badArchive("etc/phase/build-time %.40q: not a number of seconds since 1970", c.BuildTime)
	}
	switch {
	case c.Role == RoleTarget && c.Kind == KindInitramfs && c.root == nil && c.Channel == "":
		return nil
	case c.Role != RoleBoot:
		return badArchive("etc/phase/role %.40q: not the role of a boot medium", c.Role)
	}
	if _, err := manifest.RoleName(c.Channel, "x86"); err != nil {
		return badArchive("etc/phase/channel %.40q: invalid channel name", c.Channel)
	}
	root, err := describeRoot(c.root)
	sum := sha256.Sum256(c.root)
	c.Root, c.RootSum = &root, hex.EncodeToString(sum[:])
	return err
}

// settings is the part of an initramfs that Verify reads.
type settings struct {
	files   map[string][]byte // of /etc/phase
	init    string            // digest of /init
	arch    string            // of /init, "" if that is no program that is known
	modules string            // the one folder of /lib/modules
	tor     bool              // it contains Tor
	torrc   []byte
	modes   map[string][]byte // files of modesPath by name of the mode
}

// text returns a setting without its final newline.
func (s *settings) text(name string) string {
	return strings.TrimSuffix(string(s.files[name]), "\n")
}

// inputs returns the packages of which the image was made. One of an earlier version does not list them.
func (s *settings) inputs() (Inputs, error) {
	text := s.files[path.Base(inputsPath)]
	in, err := ParseInputs(text)
	if err == nil && in.Text() != string(text) {
		err = badArchive("not in the form that phase-image writes")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputsPath, err)
	}
	return in, nil
}

func newSettings() *settings {
	return &settings{files: map[string][]byte{}, modes: map[string][]byte{}}
}

var settingNames = []string{"role", "build-time", "root.json", "channel", "modules", path.Base(inputsPath)}

// ofOneArch are the settings that depend on the architecture.
var ofOneArch = []string{"modules", path.Base(inputsPath)}

// readSettings reads an initramfs of size bytes: one zstd frame with one archive.
func readSettings(r io.ReaderAt, size int64) (*settings, error) {
	z, err := openFrame(r, size)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	s := newSettings()
	if err := readArchive(z, s.visit); err != nil {
		return nil, err
	}
	if s.init == "" || s.files["role"] == nil {
		return nil, badArchive("no init or no etc/phase/role; not an initramfs that phase-image made")
	}
	return s, nil
}

func (s *settings) visit(c cpioRecord) (err error) {
	dir, name := path.Split(c.name)
	switch {
	case c.name == modesPath:
		if c.mode&modeType != modeDir {
			return badArchive("file %.80q: not a folder", c.name)
		}
		return nil
	case strings.HasPrefix(c.name, modesPath+"/"):
		return s.readMode(c)
	case c.name == "init" || dir == "etc/phase/":
		if c.mode&modeType != modeFile {
			return badArchive("file %.80q: not a regular file", c.name)
		}
	case dir == "lib/modules/":
		if s.modules = name; c.mode&modeType != modeDir {
			return badArchive("file %.80q: not a folder", c.name)
		}
	case c.name == torrcPath && (c.mode&modeType != modeFile || c.size > maxTorrc):
		return badArchive("file %.80q: not a regular file, or larger than %d bytes", c.name, maxTorrc)
	case c.mode&modeType == modeLink && (c.name == "etc" || c.name == "etc/phase" || c.name == path.Dir(torrcPath)):
		return badArchive("file %.80q: not a folder", c.name)
	}
	switch {
	case c.name == torPath:
		s.tor = true
	case c.name == torrcPath:
		s.torrc, err = io.ReadAll(c.body)
	}
	if c.name == "init" {
		head := make([]byte, elfHead)
		n, _ := io.ReadFull(c.body, head)
		s.arch = programArch(head[:n])
		s.init, err = sumOf(io.MultiReader(bytes.NewReader(head[:n]), c.body))
	}
	if dir == "etc/phase/" {
		s.files[name], err = readSetting(c, name)
	}
	return err
}

func readSetting(c cpioRecord, name string) ([]byte, error) {
	if !slices.Contains(settingNames, name) || c.size > maxSetting {
		return nil, badArchive("file %.80q: not a setting of phase-boot, or larger than %d bytes", c.name, maxSetting)
	}
	return io.ReadAll(c.body)
}

// elfHead is how many bytes of an ELF file programArch needs.
const elfHead = 20

// programArch returns the architecture of a little-endian ELF program by its first bytes, "" if it
// is another file.
func programArch(head []byte) string {
	if len(head) < elfHead || string(head[:4]) != elf.ELFMAG || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return ""
	}
	machine := elf.Machine(head[18]) | elf.Machine(head[19])<<8
	for _, a := range architectures {
		if machine.String() == a.machine {
			return a.Arch
		}
	}
	return ""
}
