//go:build machine

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A stick boots a release that has a newer boot set and is renewed; the next start tries the new set and keeps it. A
// set whose kernel does not start is tried three times; then the machine starts with the set before. systemd-boot and
// the firmware of QEMU count the starts on the stick, and verify accepts what they wrote.
func TestMachineRenewsItsStick(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	disk := filepath.Join(l.dir, "stick.img")
	must(t, "cp", "--sparse=always", l.image("--default-mode", "local"), disk)
	good := bootSetOf(t, disk, 1, fx.path("artifacts/kernel"))
	p.signOwn(t, good, "2.0", bootSetFlags(good)...)
	p.serve(l.host())
	number := func(what string) string { return "boot set: number " + what }

	m := l.powerOn(disk)
	m.waitFor([]string{number("2, of release 2.0, is on the stick"), started}, refused, "has started the machine")
	m.powerOff()
	verifyStick(t, p, disk, "release 2.0: on trial, 3 of 3 tries left")

	m = l.powerOn(disk)
	m.waitFor([]string{number("2 of this stick has started the machine"), number("2, of release 2.0, has loaded a verified release and is kept"), started}, refused)
	m.powerOff()
	verifyStick(t, p, disk, "release 2.0: it has started a release")

	bad := bootSetOf(t, disk, 2, broken(t, fx.path("artifacts/kernel")))
	p.signOwn(t, bad, "3.0", bootSetFlags(bad)...)
	m = l.powerOn(disk)
	m.waitFor([]string{number("2 of this stick has started the machine"), number("3, of release 3.0, is on the stick"), started}, refused, "is kept")
	m.powerOff()
	for _, left := range []string{"on trial, 2 of 3 tries left", "on trial, 1 of 3 tries left", "it has started no release in 3 tries"} {
		m = l.powerOn(disk)
		m.waitFor([]string{"BdsDxe: starting", kernelFails}, "Linux version")
		m.powerOff()
		verifyStick(t, p, disk, "release 2.0: it has started a release", "release 3.0: "+left)
	}
	m = l.powerOn(disk)
	m.waitFor([]string{number("2 of this stick has started the machine"), started}, refused, "is on the stick", "is kept")
	m.powerOff()
	verifyStick(t, p, disk, "release 2.0: it has started a release", "release 3.0: it has started no release in 3 tries")
}

// kernelFails is what the firmware prints when a kernel without a valid instruction was started.
const kernelFails = "X64 Exception Type"

// bootSetOf makes a folder of artifacts with a boot set that was built some seconds after a stick.
func bootSetOf(t *testing.T, stick string, later int, kernel string) (dir string) {
	t.Helper()
	var image struct {
		BuildTime int `json:"build_time,string"`
	}
	decode(t, must(t, fx.bin("phase-image"), "verify", "--json", stick), &image)
	dir = t.TempDir()
	must(t, "cp", "-a", fx.path("artifacts")+"/.", dir)
	must(t, "mkdir", "-p", filepath.Join(dir, "boot"))
	must(t, "cp", kernel, filepath.Join(dir, "boot/kernel"))
	must(t, "env", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", image.BuildTime+later), fx.bin("phase-image"), "initramfs", "--role", "boot", "--root", fx.path("repo/root.json"), "--out", filepath.Join(dir, "boot/initramfs"))
	return dir
}

func bootSetFlags(dir string) []string {
	return []string{"--boot-kernel", filepath.Join(dir, "boot/kernel"), "--boot-initramfs", filepath.Join(dir, "boot/initramfs")}
}

// broken returns a copy of a kernel that has its headers, and then only bytes that are no instruction.
func broken(t *testing.T, kernel string) string {
	t.Helper()
	data, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	const headers, invalid = 32 << 10, 0x06 // in 64-bit mode
	copy(data[headers:], bytes.Repeat([]byte{invalid}, len(data)-headers))
	name := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// verifyStick fails unless verify accepts a renewed stick and says all words of its boot sets.
func verifyStick(t *testing.T, p *published, disk string, words ...string) {
	t.Helper()
	said := string(must(t, fx.bin("phase-image"), "verify", "--repo", p.at("repo"), "--root", fx.path("repo/root.json"), disk))
	for _, want := range append(words, "equal: releases of the renewed boot sets, root.json", "sgdisk, fsck.fat, e2fsck: no errors") {
		if !strings.Contains(said, want) {
			t.Errorf("verify does not say %q:\n%s", want, said)
		}
	}
}
