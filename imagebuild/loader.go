package imagebuild

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// Paths on the EFI system partition, in lower case: firmware ignores case.
const (
	kernelPath    = "phase/vmlinuz"
	initramfsPath = "phase/initramfs.zst"
	menuPath      = "loader/loader.conf"
	entriesPath   = "loader/entries"
)

// maxLoaderFile bounds a settings file of the loader, in bytes.
const maxLoaderFile = 8 << 10

// BootEntry is one entry of the boot menu.
type BootEntry struct {
	Mode    string `json:"mode"`  // name of its file, without .conf
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

func readBootEntry(mode, text string) (BootEntry, error) {
	f, err := loaderFields(text, "title", "sort-key", "linux", "initrd", "options")
	if err != nil {
		return BootEntry{}, err
	}
	if f["linux"] != "/"+kernelPath || f["initrd"] != "/"+initramfsPath {
		return BootEntry{}, badLoader("linux %.80q and initrd %.80q, want /%s and /%s", f["linux"], f["initrd"], kernelPath, initramfsPath)
	}
	if err := checkCmdline(f["options"]); err != nil {
		return BootEntry{}, badLoader("options: %v", err)
	}
	args := bootargs.Parse(f["options"])
	if args.Mode == "" {
		args.Mode = modes.Default
	}
	return BootEntry{Mode: mode, Boots: args.Mode, Title: f["title"], Cmdline: f["options"]}, nil
}

var menuDefault = regexp.MustCompile(`^([a-z0-9-]+)\.conf$`)

// readMenu returns the mode that starts without a key press.
func readMenu(text string) (string, error) {
	f, err := loaderFields(text, "timeout", "default")
	if err != nil {
		return "", err
	}
	m := menuDefault.FindStringSubmatch(f["default"])
	if m == nil {
		return "", badLoader("default %.40q: not the name of an entry", f["default"])
	}
	return m[1], nil
}
