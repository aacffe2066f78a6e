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
// UKI and nothing else, and its kernel, which is locked down, refuses kernels without a signature by a key in db.
func TestMachineWithSecureBootStartsOnlyWhatWasSigned(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	dir := t.TempDir()
	keys, vars := filepath.Join(dir, "sb"), filepath.Join(dir, "vars.fd")
	must(t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", vars)
	must(t, fx.bin("phase-image"), "keys", "--out", keys)
	build := func(command, root string, more ...string) string {
		out := filepath.Join(t.TempDir(), "out")
		must(t, fx.bin("phase-image"), append([]string{command, "--root", root, "--default-mode", "local", "--out", out}, more...)...)
		return out
	}
	other := withoutSignature(t)
	root, sign := fx.path("repo/root.json"), []string{"--size", "512M", "--sb-key", keys + "/db.key", "--sb-cert", keys + "/db.pem"}
	unsigned, signed, signedOther := stickWith(t, build("uki", root)), build("usb", root, sign...), build("usb", other.path("repo/root.json"), sign...)
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
	// Debian's signature leads to no certificate in db, and the boot kernel has none of its own for kexec
	m.waitFor([]string{"] resolve: ", "kexec: required key not available: lockdown: the release's kernel has no signature that this boot kernel accepts"}, "phase.release=")
	m.powerOff()

	h := l.host()
	h.serve(fx.bin("phase-publish"), "serve", "--store", other.path("store"), "--repo", other.path("repo"), "--dht", "off",
		"--online-key", other.path("keys/online"), "--ipns-key", other.path("keys/ipns"), "--identity", other.path("peer.key"),
		"--http", h.addr+":8080", "--listen", "/ip4/"+h.addr+"/tcp/4001")
	m = start(signedOther)
	m.waitFor([]string{"] resolve: ", "kexec: operation not permitted: lockdown: the release's kernel has no signature that this boot kernel accepts"}, "phase.release=")
}

// withoutSignature publishes a release of another repository: the same as that of the fixtures, but its
// kernel is not signed for Secure Boot.
func withoutSignature(t *testing.T) fixtures {
	t.Helper()
	f := fixtures{Dir: t.TempDir()}
	must(t, "sh", "-euc", `
		ln -s "$1/bin" "$1/keys" "$2/" && cp -r "$1/artifacts" "$2/artifacts"
		sbattach --remove "$2/artifacts/kernel"`, "sh", fx.Dir, f.Dir)
	for _, args := range [][]string{
		initRepo(f, "repo", "root", "release"),
		signRelease(f, "repo", "release", release, "release.json"),
		addRelease(f, "store", "repo", "release.json"),
	} {
		must(t, args[0], args[1:]...)
	}
	return f
}
