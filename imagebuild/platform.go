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

// An architecture is what machines of one processor architecture have in common.
type architecture struct {
	Arch    string // as the release manifest names it: "x86_64"
	debian  string // Debian's name of it
	efi     string // the name of the UEFI and Boot Loader specifications, in lower case
	machine string // ELF machine of its programs
	serial  string // console of the first serial line of a virtual machine
	folder  string // of its kernel and initramfs on the EFI system partition
	suffix  string // of the names of its boot entries, which contains no character of a mode's name
}

var architectures = []architecture{
	{"x86_64", "amd64", "x64", "EM_X86_64", "ttyS0", "phase", ""},
	{"arm64", "arm64", "aa64", "EM_AARCH64", "ttyAMA0", "phase/arm64", "_arm64"},
}

// loader returns the path of systemd-boot in its package.
func (a architecture) loader() string {
	return "usr/lib/systemd/boot/efi/systemd-boot" + a.efi + ".efi"
}

// loaderPath returns the path of the file that firmware starts, on the EFI system partition.
func (a architecture) loaderPath() string { return "EFI/BOOT/BOOT" + strings.ToUpper(a.efi) + ".EFI" }

func (a architecture) kernelPath() string    { return a.folder + "/vmlinuz" }
func (a architecture) initramfsPath() string { return a.folder + "/initramfs.zst" }

// A Platform is a kind of machine that images are built for. ParsePlatform returns it.
type Platform struct {
	architecture
	Flavour string // "vm" or "generic"

	kernel string // Debian's meta package of the kernel
}

// kernels are Debian's meta packages by architecture and flavour.
var kernels = []struct{ arch, flavour, name string }{
	{"x86_64", "vm", "linux-image-cloud-amd64"},
	{"x86_64", "generic", "linux-image-amd64"},
	{"arm64", "vm", "linux-image-cloud-arm64"},
	{"arm64", "generic", "linux-image-arm64"},
}

// Archs returns the names of the architectures.
func Archs() (names []string) {
	for _, a := range architectures {
		names = append(names, a.Arch)
	}
	return names
}

// ParsePlatform returns the platform of an architecture and a flavour. The error for an
// unknown name lists the known ones.
func ParsePlatform(arch, flavour string) (Platform, error) {
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.Arch == arch })
	if i < 0 {
		return Platform{}, optionsf("arch %.40q: unknown; supported: %s", arch, strings.Join(Archs(), ", "))
	}
	var flavours []string
	for _, k := range kernels {
		if k.arch == arch && k.flavour == flavour {
			return Platform{architectures[i], flavour, k.name}, nil
		}
		if k.arch == arch {
			flavours = append(flavours, k.flavour)
		}
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
