package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The fixtures of arm64: artifacts, an image, and a repository that also has the channel for x86_64.
const (
	armArtifacts = "arm64/artifacts"
	bothRepo     = "arm64/repo"
	bothStore    = "arm64/store"
	armImage     = "arm64/arm64.img"
)

// armInit is the init of the smallest root filesystem that runs the job. plasmd is the only other
// program that it needs.
const armInit = `#!/bin/busybox sh
echo "system: $(/bin/busybox uname -m)"
[ ! -e /sys/firmware/devicetree/base/model ] || echo "model: $(/bin/busybox cat /sys/firmware/devicetree/base/model)"
/bin/plasmd run --marked --release /run/phase/release.json --key /run/phase/machine.key
exec /bin/busybox sleep 100000
`

// prepareARM makes the fixtures of arm64 with the keys of the others. The kernel is compressed, as some
// distributions ship it. The root filesystem has three files, because a boot of Debian's takes
// minutes without KVM.
func prepareARM(f fixtures) error {
	art, tree := f.path(armArtifacts), f.path("arm64/tree")
	for _, dir := range []string{art + "/job", tree + "/bin", tree + "/sbin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "proc", "run", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(tree+"/sbin/init", []byte(armInit), 0o755); err != nil {
		return err
	}
	image := f.bin("phase-image")
	return runAll(
		[]string{image, "kernel", "--arch", "arm64", "--out", f.path("arm64/kernel")},
		[]string{"sh", "-ec", `gzip -n -6 <"$1" >"$2"`, "sh", f.path("arm64/kernel"), art + "/kernel"},
		[]string{image, "initramfs", "--role", "target", "--arch", "arm64", "--out", art + "/initramfs"},
		[]string{"sh", "-ec", `zstd -dc "$1" | (cd "$2" && cpio -i --quiet bin/busybox)`, "sh", art + "/initramfs", tree},
		[]string{"cp", f.bin("arm64/plasmd"), tree + "/bin/plasmd"},
		[]string{"mksquashfs", tree, art + "/rootfs", "-quiet", "-no-progress", "-all-root", "-comp", "zstd", "-Xcompression-level", "3"},
		[]string{"cp", f.bin("hello.wasm"), art + "/job/hello.wasm"},
		append(initRepo(f, bothRepo, "root", "release"), "--arch", "arm64"),
		onARM(f, signRelease(f, bothRepo, "release", release, "arm64/release.json")),
		onARM(f, addRelease(f, bothStore, bothRepo, "arm64/release.json")),
		[]string{
			image, "usb", "--arch", "arm64", "--root", f.path(bothRepo, "root.json"), "--default-mode", "local", "--size", "512M",
			"--out", f.path(armImage),
		},
	)
}

// onARM changes the arguments of signRelease and addRelease for arm64.
func onARM(f fixtures, args []string) []string {
	for i, arg := range args {
		arg = strings.Replace(arg, f.path("artifacts"), f.path(armArtifacts), 1)
		args[i] = strings.Replace(strings.Replace(arg, "ttyS0", "ttyAMA0", 1), "x86_64", "arm64", 1)
	}
	return args
}

// publishBoth serves the repository of both architectures from the host. more are arguments of phase-publish serve.
func (h host) publishBoth(more ...string) ready {
	h.t.Helper()
	p := &published{h.t.TempDir(), fx.path("keys/online")}
	must(h.t, "cp", "-a", fx.path(bothStore), fx.path(bothRepo), p.dir)
	return p.serve(h, more...)
}

// bootARM starts a machine for arm64 on the LAN from a copy of the image. more are arguments of QEMU.
func (l *lan) bootARM(image string, more ...string) *machine {
	l.t.Helper()
	disk := filepath.Join(l.dir, fmt.Sprintf("disk%d.img", l.next))
	must(l.t, "cp", "--sparse=always", image, disk)
	env := []string{"MEM=768", "NET=tap:" + l.tap(), "ACCEL="} // ACCEL is that of x86_64; the script finds it
	return l.startMachine("../../scripts/test-qemu-arm64.sh", env, disk, more...)
}

// armMarks are the texts of a boot to the receipt, in this order.
func armMarks() []string {
	return []string{
		"BdsDxe: starting", "] network: eth0 10.55", "] resolve: ", "stable/arm64 release " + release, "] source: ",
		"] kexec: loaded", "] kexec: starting", "Linux version", "phase.release=" + release, "phase-boot: target: ",
		"] switch root: ", "system: aarch64", "plasmd: receipt {",
	}
}

// Debian's boot kernel for arm64 has no kexec_file_load, so this boot is one with kexec_load.
func TestARM64BootsFromTheLANToTheReceipt(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publishBoth()
	l.bootARM(fx.path(armImage)).waitFor(armMarks(), refused)
}
