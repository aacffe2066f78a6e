//go:build machine

package e2e

import (
	"path/filepath"
	"testing"
)

// bothImage boots both architectures, and so does grubImage, which has GRUB too. The artifacts of flavour
// generic are in genericArtifacts.
const (
	bothImage        = "arm64/all.img"
	grubImage        = "arm64/grub.img"
	genericArtifacts = "generic"
)

// The tests have no network: whatever is made of Debian's packages is made here, or of the packages that this
// has fetched.
func init() {
	prepareMore = func(f fixtures) error {
		image, root, generic := f.bin("phase-image"), f.path(bothRepo, "root.json"), f.path(genericArtifacts)
		return runAll(
			signRelease(f, bothRepo, "release", release, "arm64/x86.json"),
			addRelease(f, bothStore, bothRepo, "arm64/x86.json"),
			[]string{image, "usb", "--arch", "all", "--root", root, "--default-mode", "local", "--size", "512M", "--out", f.path(bothImage)},
			[]string{
				image, "usb", "--arch", "all", "--bootloader", "both", "--root", root, "--default-mode", "local", "--size", "700M",
				"--out", f.path(grubImage),
			},
			[]string{"mkdir", generic},
			[]string{"cp", "-r", f.path("artifacts/job"), generic},
			[]string{image, "kernel", "--flavour", "generic", "--out", generic + "/kernel"},
			[]string{image, "initramfs", "--role", "target", "--flavour", "generic", "--out", generic + "/initramfs"},
			[]string{image, "rootfs", "--flavour", "generic", "--out", generic + "/rootfs"},
		)
	}
}

// TestMachineOneStickBootsBothArchitectures boots the same bytes on both.
func TestMachineOneStickBootsBothArchitectures(t *testing.T) {
	must(t, fx.bin("phase-image"), "verify", "--root", fx.path(bothRepo, "root.json"), fx.path(bothImage))
	t.Run("x86_64", func(t *testing.T) {
		t.Parallel()
		l := newLAN(t)
		l.host().publishBoth()
		l.boot(fx.path(bothImage)).waitFor(bootMarks(), refused)
	})
	t.Run("arm64", func(t *testing.T) {
		t.Parallel()
		l := newLAN(t)
		l.host().publishBoth()
		l.bootARM(fx.path(bothImage)).waitFor(armMarks(), refused)
	})
}

// TestMachineTakesTheDeviceTreeOfTheRelease boots a machine without ACPI. Its own device tree has another model.
func TestMachineTakesTheDeviceTreeOfTheRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree, art := filepath.Join(dir, "linux,dummy-virt.dtb"), fx.path(armArtifacts)
	dumped := filepath.Join(dir, "board.dtb") // a comma ends an option of QEMU
	must(t, "qemu-system-aarch64", "-machine", "virt,acpi=off,dumpdtb="+dumped, "-cpu", "cortex-a57", "-m", "768", "-display", "none")
	must(t, "mv", dumped, tree)
	must(t, "fdtput", "-t", "s", tree, "/", "model", "board of the release")
	p := &published{dir, fx.path("keys/online")}
	must(t, "cp", "-a", fx.path(bothStore), fx.path(bothRepo), art, dir)
	must(t, "mkdir", p.at("artifacts/dtb"))
	must(t, "cp", tree, p.at("artifacts/dtb"))
	args := onARM(fx, signRelease(fx, "", "release", "2026.12-board", "", "--dtb", tree))
	p.sign(t, p.at("artifacts"), args)
	l := newLAN(t)
	p.serve(l.host())
	l.bootARM(fx.path(armImage), "-machine", "acpi=off").waitFor([]string{
		"] kexec: loaded, device tree: dtb/linux,dummy-virt.dtb", "Linux version", "Machine model: board of the release", "model: board of the release", "plasmd: receipt {",
	}, refused)
}
