//go:build machine

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// stickWith makes a FAT filesystem with one EFI program, which firmware starts.
func stickWith(t *testing.T, program string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "stick.img")
	must(t, "sh", "-euc", `
		truncate -s 96M "$1" && mkfs.vfat -F 32 "$1" >/dev/null
		mmd -i "$1" ::/EFI ::/EFI/BOOT && mcopy -i "$1" "$2" ::/EFI/BOOT/BOOTX64.EFI`, "sh", image, program)
	return image
}

// Keys that phase-image made are enrolled by the medium that it made. Then firmware starts the signed
// UKI and nothing else, and the kernel, which is locked down, starts the release by kexec.
func TestMachineWithSecureBootStartsOnlyWhatWasSigned(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	dir := t.TempDir()
	keys, vars := filepath.Join(dir, "sb"), filepath.Join(dir, "vars.fd")
	must(t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", vars)
	must(t, fx.bin("phase-image"), "keys", "--out", keys)
	build := func(name string, more ...string) string {
		uki := filepath.Join(dir, name)
		must(t, fx.bin("phase-image"), append([]string{"uki", "--root", fx.path("repo/root.json"), "--default-mode", "local", "--out", uki}, more...)...)
		return stickWith(t, uki)
	}
	signed := build("signed.efi", "--sb-key", keys+"/db.key", "--sb-cert", keys+"/db.pem")
	unsigned := build("unsigned.efi")
	if err := os.Chmod(vars, 0o644); err != nil {
		t.Fatal(err)
	}
	start := func(image string) *machine {
		return l.startQEMUWith([]string{"MEM=1536", "NET=tap:" + l.tap(), "SECUREBOOT=" + vars}, image)
	}

	m := start(filepath.Join(keys, "enroll.img"))
	m.waitFor([]string{"Enrolling secure boot keys"})
	select { // the firmware restarts, which ends this QEMU
	case <-m.ended:
	case <-t.Context().Done():
	}

	m = start(unsigned)
	m.waitFor([]string{"Access Denied"}, "phase-boot")
	m.powerOff()

	l.host().publish("--dht", "off")
	m = start(signed)
	marks := bootMarks()
	m.waitFor(append(append(marks[:7:7], "Secure boot enabled"), marks[7:]...), refused)
}
