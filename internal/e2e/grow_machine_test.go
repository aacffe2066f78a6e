//go:build machine

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// An image of 1 GiB boots from a disk of 8 GiB: the cache grows at the first boot in a mode that may write,
// and not in mode private. verify accepts the grown stick as the image that it was. The second boot finds
// nothing to do.
func TestMachineStickGrowsToItsSize(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	image, disk := l.image("--default-mode", "local", "--size", "1G"), filepath.Join(l.dir, "stick.img")
	must(t, "cp", "--sparse=always", image, disk)
	must(t, "truncate", "-s", "8G", disk)

	m := l.powerOn(disk)
	m.waitFor([]string{"] cache: /dev/vda2 (rw), grown from 7", " MiB to 7.", "GiB", "] resolve: ", started}, refused)
	m.powerOff() // the cache is not mounted between the two kernels
	checkTable(t, disk)
	said := string(must(t, fx.bin("phase-image"), "verify", "--root", fx.path("repo/root.json"), "--rebuild", disk))
	for _, want := range []string{"grown to the size of the device; the image was built with 1.0 GiB", "equal: root.json, rebuild", "sgdisk, fsck.fat, e2fsck: no errors"} {
		if !strings.Contains(said, want) {
			t.Errorf("verify does not say %q:\n%s", want, said)
		}
	}

	m = l.powerOn(disk)
	m.waitFor([]string{"] cache: /dev/vda2 (rw)", "] resolve: ", started}, refused, "grown")
	m.powerOff()

	private := filepath.Join(l.dir, "private.img")
	must(t, "cp", "--sparse=always", l.image("--default-mode", "private", "--size", "512M"), private)
	must(t, "truncate", "-s", "8G", private)
	before := must(t, "sha256sum", private)
	m = l.powerOn(private)
	m.waitFor([]string{"] cache: off: no block device is opened", menuShown})
	m.powerOff()
	if after := must(t, "sha256sum", private); string(before) != string(after) {
		t.Error("mode private has written to the stick")
	}
}
