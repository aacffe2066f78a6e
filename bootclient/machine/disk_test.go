package machine

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// mke2fs makes a real file system, judged later by our own reading of it.
func mke2fs(t *testing.T, path, label string) {
	t.Helper()
	tool, err := exec.LookPath("mke2fs")
	if err != nil {
		if tool = "/sbin/mke2fs"; !exists(tool) {
			t.Fatal("mke2fs is missing; run: apt-get install e2fsprogs")
		}
	}
	if out, err := exec.Command(tool, "-q", "-t", "ext4", "-L", label, path, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// machineDisks is a /sys and /dev with files in the place of block devices.
func machineDisks(t *testing.T, names ...string) (sys, dev string) {
	t.Helper()
	sys, dev = t.TempDir(), t.TempDir()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(sys, "class/block", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return sys, dev
}

func TestTheCacheIsFoundByItsLabel(t *testing.T) {
	sys, dev := machineDisks(t, "loop0", "sda", "sda1", "sda2", "sdb")
	mke2fs(t, filepath.Join(dev, "loop0"), cacheLabel) // never looked at
	mke2fs(t, filepath.Join(dev, "sda1"), "PHASE-OTHER")
	mke2fs(t, filepath.Join(dev, "sda2"), cacheLabel)
	if err := os.WriteFile(filepath.Join(dev, "sda"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := findLabel(sys, dev, cacheLabel)
	if want := filepath.Join(dev, "sda2"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestAMachineWithoutCacheSaysSo(t *testing.T) {
	sys, dev := machineDisks(t, "sda", "sdb", "sdc")
	for name, size := range map[string]int{"sda": 0, "sdb": 1100} { // shorter than a superblock; sdc has no node
		if err := os.WriteFile(filepath.Join(dev, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findLabel(sys, dev, cacheLabel); !errors.Is(err, errNoCache) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAStickIsToldFromADiskThatStays(t *testing.T) {
	sys := t.TempDir()
	for device, bus := range map[string]string{
		"sda2": "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sda",
		"vda2": "pci0000:00/0000:00:03.0/virtio1/block/vda",
	} {
		real, link := filepath.Join(sys, "devices", bus, device), filepath.Join(sys, "class/block", device)
		if err := errors.Join(os.MkdirAll(real, 0o755), os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(real, link)); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]bool{"/dev/sda2": true, "/dev/vda2": false, "/dev/gone": false} {
		if got := onUSB(sys, device); got != want {
			t.Errorf("%s: %t", device, got)
		}
	}
}
