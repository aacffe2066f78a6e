//go:build machine

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/manifest"
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

// A securedLAN is a LAN with one machine, whose firmware has Secure Boot and keys of its own.
type securedLAN struct {
	*lan
	vars string // the variables of the firmware
	keys string // as phase-image keys made them
}

// enroll makes keys, and boots the medium that enrolls them.
func enroll(t *testing.T) securedLAN {
	t.Helper()
	dir := t.TempDir()
	s := securedLAN{newLAN(t), filepath.Join(dir, "vars.fd"), filepath.Join(dir, "sb")}
	must(t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", s.vars)
	if err := os.Chmod(s.vars, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, fx.bin("phase-image"), "keys", "--out", s.keys)
	m := s.boot(filepath.Join(s.keys, "enroll.img"))
	m.waitFor([]string{"Enrolling secure boot keys"})
	select { // the firmware restarts, which ends this QEMU
	case <-m.ended:
	case <-t.Context().Done():
	}
	return s
}

// boot starts the machine from an image, to which it may write.
func (s securedLAN) boot(image string) *machine {
	s.t.Helper()
	return s.startQEMUWith([]string{"MEM=1536", "NET=tap:" + s.tap(), "SECUREBOOT=" + s.vars}, image)
}

// expect boots an image, waits for the marks on the console, and powers the machine off. It returns
// what the console has shown.
func (s securedLAN) expect(t *testing.T, image string, marks []string, forbidden ...string) string {
	t.Helper()
	s.t = t
	m := s.boot(image)
	m.waitFor(marks, forbidden...)
	m.powerOff()
	text, _ := m.console.since(0)
	return string(text)
}

// sign publishes a release with the kernel of a file, signed with the key in db. It returns the folder of
// its artifacts.
func (s securedLAN) sign(t *testing.T, p *published, kernel, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "artifacts")
	must(t, "cp", "-r", fx.path("artifacts"), dir)
	must(t, "rm", filepath.Join(dir, "kernel"))
	p.signOwn(t, dir, version, append(s.signing(), "--kernel", kernel, "--sb-kernel", filepath.Join(dir, "kernel"))...)
	return dir
}

func (s securedLAN) signing() []string {
	return []string{"--sb-key", s.keys + "/db.key", "--sb-cert", s.keys + "/db.pem"}
}

// Keys that phase-image made are enrolled by the medium that it made. Then firmware starts the signed
// UKI and nothing else, its kernel starts only a kernel that the same key has signed, and phase-boot
// gives it only a kernel of the manifest.
func TestMachineWithSecureBootStartsOnlyWhatWasSigned(t *testing.T) {
	t.Parallel()
	s, p := enroll(t), publication(t)
	dir := t.TempDir()
	mirror, uki, stick := filepath.Join(dir, "mirror"), filepath.Join(dir, "uki.efi"), filepath.Join(dir, "stick.img")
	h := s.host()
	image := func(command, out string, more ...string) {
		must(t, fx.bin("phase-image"), append([]string{command, "--root", fx.path("repo/root.json"), "--default-mode", "local", "--out", out}, more...)...)
	}
	image("uki", uki)
	image("usb", stick, append(s.signing(), "--size", "512M", "--cmdline", "phase.mirror="+h.nginx(mirror))...)
	export := func() {
		must(t, fx.bin("phase-publish"), "export", "--store", p.at("store"), "--repo", p.at("repo"), "--out", mirror, "--ipns-key", fx.path("keys/ipns"))
	}
	unsigned := filepath.Join(dir, "artifacts")
	must(t, "cp", "-r", fx.path("artifacts"), unsigned)
	must(t, "sbattach", "--remove", filepath.Join(unsigned, "kernel"))

	t.Run("firmware refuses a UKI without a signature", func(t *testing.T) {
		s.expect(t, stickWith(t, uki), []string{"Access Denied"}, "phase-boot")
	})
	t.Run("a boot kernel refuses a kernel of the manifest without a signature", func(t *testing.T) {
		p.signOwn(t, unsigned, "2026.11-unsigned")
		export()
		s.expect(t, stick, []string{"] resolve: stable/x86_64 release 2026.11-unsigned", notSigned, menuShown}, "phase.release=")
	})
	const version = "2026.12-signed"
	signed := s.sign(t, p, filepath.Join(unsigned, "kernel"), version)
	t.Run("firmware does not start the signed kernel of a release", func(t *testing.T) {
		s.expect(t, stickWith(t, filepath.Join(signed, "kernel")), []string{"BdsDxe: failed to load"}, "BdsDxe: starting")
	})
	t.Run("a machine refuses a signed kernel that is not in the manifest", func(t *testing.T) {
		export()
		other := s.sign(t, publication(t), changed(t, filepath.Join(unsigned, "kernel")), "2026.12-other")
		replaced := replaceKernel(t, p, mirror, readFile(t, filepath.Join(other, "kernel")))
		said := s.expect(t, stick, []string{"] resolve: stable/x86_64 release " + version, refused, menuShown}, jump, "phase.release=")
		if !slices.ContainsFunc(replaced, func(block string) bool { return strings.Contains(said, block) }) {
			t.Errorf("no block of the kernel is named: %q", replaced)
		}
	})
	t.Run("the signed chain boots into a target that is locked down", func(t *testing.T) {
		must(t, "rm", "-r", mirror)
		export()
		s.expect(t, stick, []string{
			"] kexec: ", "Linux version", "phase.release=" + version, "Kernel is locked down from EFI Secure Boot",
			"phase-boot: target: ", "systemd[1]", "plasmd: receipt {",
		}, refused)
	})
}

// notSigned is what phase-boot says when its kernel refuses the kernel of the release.
const notSigned = "lockdown: the release's kernel has no signature that this boot kernel accepts"

// changed copies a kernel with one other byte in it.
func changed(t *testing.T, kernel string) string {
	t.Helper()
	data := readFile(t, kernel)
	data[len(data)/2] ^= 1
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replaceKernel puts another kernel of the same length into a mirror, in place of the newest release's. It
// returns the CIDs of the blocks that have other bytes.
func replaceKernel(t *testing.T, p *published, mirror string, other []byte) (replaced []string) {
	t.Helper()
	var shown struct {
		Release manifest.Release `json:"release"`
	}
	decode(t, must(t, fx.bin("phase-sign"), "show", "--json", p.at("own.json")), &shown)
	kernel, ok := shown.Release.Artifact(manifest.RoleKernel)
	if !ok || kernel.Length != int64(len(other)) {
		t.Fatalf("kernel: %+v, want %d bytes", kernel, len(other))
	}
	store, err := pack.Open(p.at("store"), pack.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	list, err := cas.Leaves(t.Context(), store, kernel.CID, kernel.Length)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		block := other[l.Offset:][:l.Size]
		if cas.Sum(l.CID.Type(), block) == l.CID {
			continue
		}
		replaced = append(replaced, l.CID.String())
		path := filepath.Join(mirror, "ipfs", l.CID.String())
		if err := os.WriteFile(path, block, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return replaced
}
