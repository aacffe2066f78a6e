//go:build machine

package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A machine boots each format to the start of the target's kernel. The disks are local.img in another
// format; the CD has the same system partition and no cache.
func TestMachineFormats(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	phaseImage := func(t *testing.T, args ...string) {
		t.Helper()
		must(t, fx.bin("phase-image"), args...)
	}
	cd := filepath.Join(dir, "boot.iso")
	phaseImage(t, "iso", "--root", fx.path("repo/root.json"), "--default-mode", "local", "--out", cd)
	of := func(format string) string {
		name := filepath.Join(dir, "vm."+format)
		phaseImage(t, format, "--from", fx.path("local.img"), "--out", name)
		phaseImage(t, "verify", "--root", fx.path("repo/root.json"), name)
		return name
	}
	const noCache = "all blocks come from the network"
	for _, c := range []struct {
		name, image string
		env         []string
		args        []string
		says        string // of the cache
	}{
		{"qcow2", of("qcow2"), nil, []string{"-set", "drive.disk0.format=qcow2"}, "] cache: /dev/vda2 (rw)"},
		{"vmdk", of("vmdk"), nil, []string{"-set", "drive.disk0.format=vmdk"}, "] cache: /dev/vda2 (rw)"},
		{"iso as a CD", cd, []string{"DISK=none"}, []string{"-set", "drive.disk0.media=cdrom", "-set", "drive.disk0.readonly=on", "-device", "ide-cd,drive=disk0,bootindex=0"}, noCache},
		// the machine has another disk with a cache
		{"iso as a stick", cd, []string{"DISK=usb"}, []string{
			"-set", "drive.disk0.readonly=on",
			"-drive", "if=none,id=disk1,format=vhdx,file=" + of("vhdx"), "-device", "virtio-blk-pci,drive=disk1",
		}, "] cache: /dev/vda2 (rw)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			l.host().publish("--dht", "off")
			m := l.startQEMUWith(append(c.env, "MEM=1536", "NET=tap:"+l.tap()), c.image, c.args...)
			m.waitFor([]string{"BdsDxe: starting", c.says, "] network: eth0 10.55", "] resolve: ", "] kexec: starting the new kernel", "phase.release=" + release}, refused)
			if c.name == "qcow2" {
				m.powerOff()
				aUsedDiskIsVerifiedRaw(t, c.image)
			}
		})
	}
}

// aUsedDiskIsVerifiedRaw checks the words for a disk that a machine has changed, and what they advise.
func aUsedDiskIsVerifiedRaw(t *testing.T, image string) {
	t.Helper()
	out, err := exec.Command(fx.bin("phase-image"), "verify", image).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(string(out), "convert it with qemu-img convert -O raw") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	raw := filepath.Join(t.TempDir(), "used.img")
	must(t, "qemu-img", "convert", "-O", "raw", image, raw)
	if out, err := exec.Command(fx.bin("phase-image"), "verify", raw).CombinedOutput(); err != nil && !strings.Contains(string(out), "e2fsck") { // the machine was cut off
		t.Errorf("verify, raw: %v\n%s", err, out)
	}
}
