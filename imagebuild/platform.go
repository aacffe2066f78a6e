package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// ErrOptions marks a request that cannot be met as it was put: the command line is
// what has to change.
var ErrOptions = errors.New("options")

type optionsError struct{ msg string }

func (e optionsError) Error() string        { return e.msg }
func (e optionsError) Is(target error) bool { return target == ErrOptions }

// notFound is fs.ErrNotExist for something that is not a file.
type notFound struct{ msg string }

func (e notFound) Error() string        { return e.msg }
func (e notFound) Is(target error) bool { return target == fs.ErrNotExist }

func notFoundf(format string, args ...any) error {
	return notFound{fmt.Sprintf(format, args...)}
}

func optionsf(format string, args ...any) error {
	return optionsError{fmt.Sprintf(format, args...)}
}

// A Platform is one kind of machine that images are built for. ParsePlatform makes it.
type Platform struct {
	Arch    string // as the release manifest names it: "x86_64"
	Flavour string // "vm" or "generic"

	debian  string // Debian's name of the architecture
	kernel  string // Debian's meta package of the kernel
	loader  string // path of systemd-boot in its package
	efiName string // name that firmware looks for in /EFI/BOOT
	machine string // ELF machine of its programs
}

var platforms = []Platform{
	{"x86_64", "vm", "amd64", "linux-image-cloud-amd64", "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "BOOTX64.EFI", "EM_X86_64"},
	{"x86_64", "generic", "amd64", "linux-image-amd64", "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "BOOTX64.EFI", "EM_X86_64"},
}

// ParsePlatform finds a platform by the names that the command line uses. An unknown
// one is fs.ErrNotExist and names those that exist.
func ParsePlatform(arch, flavour string) (Platform, error) {
	var flavours []string
	for _, p := range platforms {
		if p.Arch == arch && p.Flavour == flavour {
			return p, nil
		}
		if p.Arch == arch {
			flavours = append(flavours, p.Flavour)
		}
	}
	if flavours == nil {
		return Platform{}, notFoundf("arch %.40q: unknown; supported: x86_64", arch)
	}
	return Platform{}, notFoundf("flavour %.40q: unknown; supported for %s: %s", flavour, arch, strings.Join(flavours, ", "))
}

// checkCmdline refuses additions to the kernel command line that could end it early or
// begin another line of a loader entry. The kernel reads at most 2048 bytes.
func checkCmdline(s string) error {
	if len(s) > 1024 {
		return optionsf("cmdline: %d bytes; at most 1024", len(s))
	}
	for _, r := range s {
		if r < 0x20 || r > 0x7e {
			return optionsf("cmdline: character %q; printable ASCII only", r)
		}
	}
	return nil
}
