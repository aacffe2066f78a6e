package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// maxFirmware bounds an unpacked firmware file, in bytes. The largest of Debian's has about 20 MiB.
const maxFirmware = 64 << 20

// A firmware is the firmware files that the chosen modules name and a package has.
type firmware struct {
	files   map[string][]byte // by path below lib/firmware
	absent  []string          // files that no package has
	missing []string          // packages that apt's lists do not have
	nonFree bool              // apt's lists have a package of the component non-free-firmware
}

// firmware returns the files that modules name, out of the packages of kernel/firmware.packages. A
// package that apt's lists do not have is no error: the component of most is not in every host's sources.
func (b *Builder) firmware(ctx context.Context, p Platform, set *moduleSet) (*firmware, error) {
	f := &firmware{files: map[string][]byte{}}
	if p.Flavour != "generic" {
		return f, nil
	}
	words, names := dataWords("kernel/firmware.packages"), firmwarePackages()
	known, err := b.resolveKnown(ctx, names) // these packages are the same for all architectures
	if err != nil {
		return nil, err
	}
	var folders []string
	for i, name := range names {
		d, ok := known[name]
		if !ok {
			if name == words[i] {
				f.missing = append(f.missing, name)
			}
			continue
		}
		dir, err := b.unpack(ctx, d)
		if err != nil {
			return nil, err
		}
		f.nonFree = f.nonFree || name != freeFirmware
		folders = append(folders, dir)
	}
	return f, f.take(folders, set)
}

// firmwarePackages returns the names of the packages with firmware.
func firmwarePackages() (names []string) {
	for _, word := range dataWords("kernel/firmware.packages") {
		names = append(names, strings.TrimPrefix(word, "?"))
	}
	return names
}

// freeFirmware is the one package of the component main.
const freeFirmware = "firmware-linux-free"

// take reads the files that modules name from unpacked packages, of which the first one that has a file
// wins.
func (f *firmware) take(folders []string, set *moduleSet) error {
	var wanted []string
	for _, m := range set.files {
		wanted = append(wanted, m.info.firmware...)
	}
	slices.Sort(wanted)
	for _, name := range slices.Compact(wanted) {
		data, err := findFirmware(folders, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.absent = append(f.absent, name)
		case err != nil:
			return fmt.Errorf("firmware %s: %w", name, err)
		default:
			f.files[name] = data
		}
	}
	return nil
}

// findFirmware returns a firmware file, unpacked: the kernel then needs no decompressor for it. A link
// in a package leads to a file of the same package.
func findFirmware(folders []string, name string) ([]byte, error) {
	for _, dir := range folders {
		for _, lib := range []string{"usr/lib/firmware", "lib/firmware"} {
			root, err := os.OpenRoot(filepath.Join(dir, lib))
			if err != nil {
				continue
			}
			data, err := readFirmware(root, name)
			root.Close()
			if !errors.Is(err, fs.ErrNotExist) {
				return data, err
			}
		}
	}
	return nil, fs.ErrNotExist
}

func readFirmware(root *os.Root, name string) ([]byte, error) {
	for _, ext := range []string{"", ".zst", ".xz"} {
		packed, err := root.ReadFile(name + ext)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := unpacked(bytes.NewReader(packed), ext)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
		}
		data, err := io.ReadAll(io.LimitReader(r, maxFirmware+1))
		if err == nil && len(data) > maxFirmware {
			err = fmt.Errorf("more than %d bytes", maxFirmware)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
		}
		return data, nil
	}
	return nil, fs.ErrNotExist
}

// warning says in one line which packages are missing and how to get them. It is empty if none is.
func (f *firmware) warning() string {
	if len(f.missing) == 0 {
		return ""
	}
	text := fmt.Sprintf("firmware: packages not in apt's sources: %s; devices whose driver asks for a file of them do not work", strings.Join(f.missing, ", "))
	if !f.nonFree {
		text += ": add the component non-free-firmware to Debian's sources (Components: main non-free-firmware) and run: apt-get update"
	}
	return text
}
