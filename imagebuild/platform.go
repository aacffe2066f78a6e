package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
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
// one is ErrOptions and names those that exist.
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
		return Platform{}, optionsf("arch %.40q: unknown; supported: x86_64", arch)
	}
	return Platform{}, optionsf("flavour %.40q: unknown; supported for %s: %s", flavour, arch, strings.Join(flavours, ", "))
}

// checkCmdline refuses additions to the kernel command line that could end it early or
// begin another line of a loader entry, bring another initramfs, or hold a phase.* word that
// the machine would pass over. The kernel reads at most 2048 bytes.
func checkCmdline(s string) error {
	if len(s) > 1024 {
		return optionsf("cmdline: %d bytes; at most 1024", len(s))
	}
	for _, r := range s {
		if r < 0x20 || r > 0x7e {
			return optionsf("cmdline: character %q; printable ASCII only", r)
		}
	}
	args, err := bootargs.Check(s)
	if err != nil {
		return optionsf("cmdline: %v", err)
	}
	if err := checkMode(args.Mode); err != nil {
		return optionsf("cmdline: phase.mode: %v", err)
	}
	if err := checkChannel(args.Channel, nil); err != nil {
		return optionsf("cmdline: phase.channel: %v", err)
	}
	for _, word := range bootargs.SplitWords(s) {
		name, _, _ := strings.Cut(word, "=")
		// The kernel's EFI stub looks for initrd= anywhere, also in the middle of a word.
		if slices.Contains([]string{"initrd", "initrdmem", "noinitrd"}, name) || strings.Contains(word, "initrd=") {
			return optionsf("cmdline: %.80q: the image has one initramfs, and its entries name it", word)
		}
	}
	return nil
}

// checkMode refuses the name of a mode that this version has not; "" is the default.
func checkMode(name string) error {
	if name != "" && !slices.Contains(modes.Names(), name) {
		return optionsf("boot mode %.40q: unknown; use one of %s", name, strings.Join(modes.Names(), ", "))
	}
	return nil
}

// checkChannel refuses what cannot be the name of a channel, and one that is not among the
// known; "" is the image's own, and where known is nil every name may be right.
func checkChannel(name string, known []string) error {
	if name == "" {
		return nil
	}
	if _, err := manifest.RoleName(name, "x86"); err != nil {
		return optionsf("%v", err)
	}
	switch {
	case known == nil || slices.Contains(known, name):
		return nil
	case len(known) == 0:
		return optionsf("channel %.40q: not in the repository, which has none for this architecture", name)
	}
	return optionsf("channel %.40q: not in the repository; use one of %s", name, strings.Join(known, ", "))
}
