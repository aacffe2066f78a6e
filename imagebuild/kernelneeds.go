package imagebuild

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// A kernelNeed is an option without which a kernel cannot do its part of a boot.
type kernelNeed struct {
	option, why string
	module      bool // may be a module, which the initramfs then contains
}

// initramfsNeeds are needed to start any initramfs of this package.
var initramfsNeeds = []kernelNeed{
	{option: "CONFIG_BLK_DEV_INITRD", why: "starts an initramfs"},
	{option: "CONFIG_RD_ZSTD", why: "unpacks the initramfs"},
	{option: "CONFIG_BINFMT_ELF", why: "starts programs"},
	{option: "CONFIG_PROC_FS", why: "phase-boot mounts /proc"},
	{option: "CONFIG_SYSFS", why: "phase-boot mounts /sys"},
	{option: "CONFIG_DEVTMPFS", why: "phase-boot mounts /dev"},
	{option: "CONFIG_TMPFS", why: "phase-boot mounts /run"},
}

// bootNeeds are needed in the kernel of a medium.
var bootNeeds = append([]kernelNeed{
	{option: "CONFIG_EFI_STUB", why: "firmware starts the kernel"},
	{option: "CONFIG_MEMFD_CREATE", why: "holds the files of a release"},
	{option: "CONFIG_UNIX", why: "connects the parts of phase-boot"},
	{option: "CONFIG_INET", why: "fetches a release"},
	{option: "CONFIG_PACKET", why: "asks a DHCP server", module: true},
}, initramfsNeeds...)

// config returns the kernel's configuration, or nil if its package has none.
func (k *Kernel) config() []byte {
	for _, name := range []string{path.Join("boot", "config-"+k.Version), path.Join(k.Modules, "config")} {
		if text, err := k.read(name); err == nil {
			return text
		}
	}
	return nil
}

// check refuses a kernel without an option that it needs. It accepts a kernel whose package has no
// configuration.
func (k *Kernel) check(needs []kernelNeed) error {
	text := append([]byte("\n"), k.config()...)
	for _, n := range needs {
		has := bytes.Contains(text, []byte("\n"+n.option+"=y\n")) || n.module && bytes.Contains(text, []byte("\n"+n.option+"=m\n"))
		if len(text) > 1 && !has {
			return optionsf("kernel %s: built without %s, which %s; build it with that, or name another kernel with --kernel", k.Version, n.option, n.why)
		}
	}
	return nil
}

// kexecWarning warns about a kernel that cannot start a release, or starts it without EFI. It is empty if
// the kernel can, or if its package has no configuration. On arm64, kexec_load is enough. On x86_64,
// kexec_file_load hands EFI over only with the runtime map (arch/x86/kernel/kexec-bzimage64.c).
func (k *Kernel) kexecWarning() string {
	text := k.config()
	if text == nil {
		return ""
	}
	has := func(option string) bool { return bytes.Contains(text, []byte("\n"+option+"=y\n")) }
	options := []string{"CONFIG_KEXEC_FILE"}
	if k.Arch == bootfile.ARM64 {
		options = append(options, "CONFIG_KEXEC")
	}
	switch {
	case !slices.ContainsFunc(options, has):
		return fmt.Sprintf("warning: kernel %s: built without %s; a machine boots and verifies with it, but cannot start a release: name another kernel with --kernel",
			k.Version, strings.Join(options, " and "))
	case k.Arch == bootfile.X86_64 && !has("CONFIG_EFI_RUNTIME_MAP"):
		return fmt.Sprintf("warning: kernel %s: built without CONFIG_EFI_RUNTIME_MAP; a release that it starts has no EFI: name another kernel with --kernel", k.Version)
	}
	return ""
}
