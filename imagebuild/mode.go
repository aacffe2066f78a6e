package imagebuild

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// modesPath is the folder of the mode files in a boot initramfs, as the machine reads it.
const modesPath = "etc/phase/modes"

// A ModeFile is a boot mode of an image.
type ModeFile struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"`  // of its file
	Shipped string `json:"shipped"` // "yes", "no", or "other": another content than the mode of this name of this program
}

// checkModes refuses a mode and a mode on a command line that the image does not have. "" means the default.
func (in Initramfs) checkModes(mode, cmdline string) error {
	if err := checkMode(in.Modes, mode); err != nil {
		return err
	}
	if err := checkMode(in.Modes, bootargs.Parse(cmdline).Mode); err != nil {
		return optionsf("cmdline: phase.mode: %v", err)
	}
	return nil
}

// checkMode refuses the name of an unknown mode.
func checkMode(set modes.Set, name string) error {
	if name != "" && !slices.Contains(set.Names(), name) {
		return optionsf("boot mode %.40q: unknown; use one of %s", name, strings.Join(set.Names(), ", "))
	}
	return nil
}

// addModes adds the file of each mode that the image can boot.
func (in Initramfs) addModes(a *archive) {
	a.dir(modesPath, 0o755)
	for _, name := range in.Modes.Available(in.WithTor) {
		data, _ := in.Modes.File(name)
		a.file(modesPath+"/"+name+".json", data, 0o644)
	}
}

// readMode reads a member of an archive in modesPath.
func (s *settings) readMode(c cpioRecord) error {
	name, found := strings.CutSuffix(path.Base(c.name), ".json")
	if !found || path.Dir(c.name) != modesPath || c.mode&modeType != modeFile || c.size > modes.MaxFile {
		return badArchive("file %.80q: not the file of a boot mode, or larger than %d bytes", c.name, modes.MaxFile)
	}
	if len(s.modes) == modes.MaxModes {
		return badArchive("%s: more than %d boot modes", modesPath, modes.MaxModes)
	}
	data, err := io.ReadAll(c.body)
	s.modes[name] = data
	return err
}

// takeModes checks the mode files of the archive as the machine reads them.
func (c *Contents) takeModes(files map[string][]byte) (err error) {
	if c.modes, err = modes.Of(files); err != nil {
		return badArchive("%v", err)
	}
	for _, name := range c.modes.Names() {
		data, found := files[name]
		if !found {
			continue
		}
		sum := sha256.Sum256(data)
		m := ModeFile{Name: name, SHA256: hex.EncodeToString(sum[:]), Shipped: "no"}
		if shipped, found := modes.Shipped(name); found && bytes.Equal(shipped, data) {
			m.Shipped = "yes"
		} else if found {
			m.Shipped = "other"
		}
		c.Modes = append(c.Modes, m)
	}
	return nil
}

// checkEntries refuses a boot entry in a mode that the image does not have, or that needs Tor in an image without
// it. An image without mode files, of an earlier version, has the shipped modes.
func (c *Contents) checkEntries() error {
	for _, e := range c.Entries {
		has := func(m ModeFile) bool { return m.Name == e.Boots }
		mode, err := c.modes.Load(e.Boots)
		switch {
		case err != nil || len(c.Modes) > 0 && !slices.ContainsFunc(c.Modes, has):
			return badLoader("entry %.40s: boot mode %.40q: the image has no such mode", e.Mode, e.Boots)
		case mode.Tor && !c.Tor:
			return badLoader("entry %.40s: boot mode %.40q: the image has no Tor", e.Mode, e.Boots)
		}
	}
	return nil
}

// ownModes returns the modes that are not shipped, and so must come from files that a person gave.
func (c *Contents) ownModes() (set modes.Set, err error) {
	for _, m := range c.Modes {
		if m.Shipped != "no" {
			continue
		}
		data, _ := c.modes.File(m.Name)
		if set, err = set.Add(m.Name+".json", data); err != nil {
			return set, err
		}
	}
	return set, nil
}
