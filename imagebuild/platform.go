package imagebuild

import (
	"io/fs"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

func notFoundf(format string, args ...any) error {
	return refusal.New(fs.ErrNotExist, format, args...)
}

// optionsf refuses an option: it wraps fs.ErrInvalid.
func optionsf(format string, args ...any) error { return refusal.Invalid(format, args...) }

// A Platform is a kind of machine that images are built for. ParsePlatform returns it.
type Platform struct {
	Arch    string // as the release manifest names it: "x86_64"
	Flavour string // "vm" or "generic"

	debian  string // Debian's name of the architecture
	kernel  string // Debian's meta package of the kernel
	loader  string // path of systemd-boot in its package
	efiName string // file that firmware starts in /EFI/BOOT
	machine string // ELF machine of its programs
}

var platforms = []Platform{
	{"x86_64", "vm", "amd64", "linux-image-cloud-amd64", "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "BOOTX64.EFI", "EM_X86_64"},
	{"x86_64", "generic", "amd64", "linux-image-amd64", "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "BOOTX64.EFI", "EM_X86_64"},
}

// ParsePlatform returns the platform of an architecture and a flavour. The error for an
// unknown name lists the known ones.
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

// checkCmdline refuses an addition to the kernel command line that contains a control
// character, names another initramfs, or has a phase.* argument that the machine would
// ignore. It may have 1024 bytes; the kernel reads at most 2048.
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
	if err := checkChannel(args.Channel, nil); err != nil {
		return optionsf("cmdline: phase.channel: %v", err)
	}
	for _, word := range bootargs.SplitWords(s) {
		name, _, _ := strings.Cut(word, "=")
		// the kernel's EFI stub finds initrd= also in the middle of a word
		if slices.Contains([]string{"initrd", "initrdmem", "noinitrd"}, name) || strings.Contains(word, "initrd=") {
			return optionsf("cmdline: %.80q: remove it; the image has one initramfs, which its entries name", word)
		}
	}
	return nil
}

// checkChannel refuses an invalid channel name, and a channel that is not in known unless
// known is nil. "" means the image's own channel.
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
		return optionsf("channel %.40q: not in the repository, which has no channel for this architecture", name)
	}
	return optionsf("channel %.40q: not in the repository; use one of %s", name, strings.Join(known, ", "))
}
