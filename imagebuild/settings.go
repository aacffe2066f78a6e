package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
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
	return c.readInitramfs(f, c.Size)
}

// readInitramfs reads /etc/phase, and computes the digests of the archive and of /init.
func (c *Contents) readInitramfs(r io.ReaderAt, size int64) error {
	c.Initramfs = size
	settings, err := readSettings(r, size)
	if err != nil {
		return err
	}
	c.Role, c.Channel, c.BuildTime = settings.text("role"), settings.text("channel"), settings.text("build-time")
	if c.Tor, c.torrc = settings.tor, settings.torrc; c.torrc != nil {
		sum := sha256.Sum256(c.torrc)
		c.TorrcSum = hex.EncodeToString(sum[:])
	}
	c.Init, c.Modules, c.root = settings.init, settings.modules, settings.files["root.json"]
	if err := c.checkSettings(); err != nil {
		return err
	}
	if err := c.takeModes(settings.modes); err != nil {
		return err
	}
	c.ArchiveSum, err = sumOf(io.NewSectionReader(r, 0, size))
	return err
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
	modules string            // the one folder of /lib/modules
	tor     bool              // it contains Tor
	torrc   []byte
	modes   map[string][]byte // files of modesPath by name of the mode
}

// text returns a setting without its final newline.
func (s *settings) text(name string) string {
	return strings.TrimSuffix(string(s.files[name]), "\n")
}

var settingNames = []string{"role", "build-time", "root.json", "channel", "modules"}

// readSettings reads an initramfs of size bytes: one zstd frame with one archive.
func readSettings(r io.ReaderAt, size int64) (*settings, error) {
	z, err := openFrame(r, size)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	s := &settings{files: map[string][]byte{}, modes: map[string][]byte{}}
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
		s.init, err = sumOf(c.body)
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
