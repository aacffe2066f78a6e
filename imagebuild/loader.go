package imagebuild

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootset"
	"github.com/phaseboot/phaseboot/modes"
)

// Paths on the EFI system partition, in lower case: firmware ignores case. The paths of a kernel
// and its initramfs depend on the architecture.
const (
	menuPath    = "loader/loader.conf"
	entriesPath = "loader/entries"
)

// entryName returns the name of the file of a boot entry.
func (a architecture) entryName(mode string) string { return mode + a.suffix + ".conf" }

// defaultEntry returns the loader's pattern for the entry that starts without a key press: that of a mode, for
// each architecture and in each boot set.
func defaultEntry(mode string) string { return mode + bootset.DefaultPattern }

// maxLoaderFile bounds a settings file of the loader, in bytes.
const maxLoaderFile = 8 << 10

// BootEntry is one entry of the boot menu.
type BootEntry struct {
	Mode    string `json:"mode"` // in the name of its file
	Arch    string `json:"arch"`
	Boots   string `json:"boots"` // mode on its kernel command line
	Title   string `json:"title"`
	Cmdline string `json:"cmdline"`
}

func badLoader(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// loaderFields reads the "key value" lines of a loader file (UAPI.1, Boot Loader
// Specification). Each key must be one of keys and occur once: a second initrd line would
// give the kernel a second archive.
func loaderFields(text string, keys ...string) (map[string]string, error) {
	if i := strings.IndexFunc(text, func(r rune) bool { return (r < ' ' || r > '~') && r != '\n' }); i >= 0 {
		return nil, badLoader("character %q; printable ASCII only", text[i])
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		if !slices.Contains(keys, key) {
			return nil, badLoader("line %.80q: phase-image does not write this key", line)
		}
		if _, twice := fields[key]; twice {
			return nil, badLoader("line %.80q: repeated key", line)
		}
		if value = strings.TrimSpace(value); strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
			return nil, badLoader("line %.80q: quoted value; the loader would remove the quotes", line)
		}
		fields[key] = value
	}
	return fields, nil
}

func readBootEntry(a architecture, mode, text string) (BootEntry, error) {
	f, err := loaderFields(text, "title", "sort-key", "architecture", "linux", "initrd", "options")
	if err != nil {
		return BootEntry{}, err
	}
	if f["linux"] != "/"+a.kernelPath() || f["initrd"] != "/"+a.initramfsPath() {
		return BootEntry{}, badLoader("linux %.80q and initrd %.80q, want /%s and /%s", f["linux"], f["initrd"], a.kernelPath(), a.initramfsPath())
	}
	if f["architecture"] != a.efi {
		return BootEntry{}, badLoader("architecture %.40q, want %s", f["architecture"], a.efi)
	}
	if err := checkCmdline(f["options"]); err != nil {
		return BootEntry{}, badLoader("options: %v", err)
	}
	args := bootargs.Parse(f["options"])
	if args.Mode == "" {
		args.Mode = modes.Default
	}
	return BootEntry{Mode: mode, Arch: a.Arch, Boots: args.Mode, Title: f["title"], Cmdline: f["options"]}, nil
}

var menuDefault = regexp.MustCompile(`^[a-z0-9-]+`)

// readMenu returns the mode that starts without a key press.
func readMenu(text string) (string, error) {
	f, err := loaderFields(text, "timeout", "default")
	if err != nil {
		return "", err
	}
	mode := menuDefault.FindString(f["default"])
	if mode == "" || f["default"] != defaultEntry(mode) {
		return "", badLoader("default %.40q: not the name of an entry", f["default"])
	}
	return mode, nil
}
