package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

// mke2fs makes a real ext4 file system.
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

// machineDisks makes a /sys and a /dev with files in place of block devices.
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
	mke2fs(t, filepath.Join(dev, "loop0"), cacheLabel) // loop devices are not searched
	mke2fs(t, filepath.Join(dev, "sda1"), "PHASE-OTHER")
	mke2fs(t, filepath.Join(dev, "sda2"), cacheLabel)
	if err := os.WriteFile(filepath.Join(dev, "sda"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	got, others, err := disks{sys: sys, dev: dev}.find()
	if want := filepath.Join(dev, "sda2"); err != nil || got.device != want || others != 0 {
		t.Errorf("got %+v, %d others, %v; want %q", got, others, err, want)
	}
}

func TestAMachineWithoutACacheIsReported(t *testing.T) {
	sys, dev := machineDisks(t, "sda", "sdb", "sdc")
	for name, size := range map[string]int{"sda": 0, "sdb": 1100} { // shorter than a superblock; sdc has no node
		if err := os.WriteFile(filepath.Join(dev, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := (disks{sys: sys, dev: dev}).find(); !errors.Is(err, errNoCache) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, _, err := (disks{sys: sys, dev: dev, boot: "0fc63daf-8483-4772-8e79-3d69d8477de4"}).find(); !errors.Is(err, errNoDriver) {
		t.Errorf("the boot disk is missing: got %+v, %v", got, err)
	}
}

// gptDisk makes a disk with an ESP and a cache partition, and its entries in sysfs.
func gptDisk(t *testing.T, sys, dev, name, esp string) {
	t.Helper()
	disk := filepath.Join(dev, name)
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tool := "/usr/sbin/sgdisk"
	if !exists(tool) {
		t.Fatal("sgdisk is missing; run: apt-get install gdisk")
	}
	out, err := exec.Command("sh", "-c", `truncate -s 8M "$1" && "$2" --clear --new=1:2048:4095 --partition-guid=1:"$3" --new=2:4096:12287 "$1"`, "sh", disk, tool, esp).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, part := range []string{"", name + "1", name + "2"} {
		real := filepath.Join(sys, "devices/pci0000:00/block", name, part)
		link := filepath.Join(sys, "class/block", filepath.Base(filepath.Join(name, part)))
		err := errors.Join(os.MkdirAll(real, 0o755), os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(real, link))
		if part != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(real, "partition"), []byte(part[len(name):]), 0o644))
		}
		if part == name+"2" {
			err = errors.Join(err, os.WriteFile(filepath.Join(real, "uevent"), []byte("DEVTYPE=partition\nPARTNAME="+cacheLabel+"\n"), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mke2fs(t, filepath.Join(dev, name+"2"), cacheLabel)
}

func TestTheCacheOnTheBootDiskIsUsed(t *testing.T) {
	const esp1, esp2 = "0fc63daf-8483-4772-8e79-3d69d8477de4", "b0eef8d2-7c1a-4c3d-9f0e-0123456789ab"
	sys, dev := t.TempDir(), t.TempDir()
	gptDisk(t, sys, dev, "sda", esp1)
	gptDisk(t, sys, dev, "sdb", esp2)
	for boot, want := range map[string]string{"": "sda2", esp1: "sda2", esp2: "sdb2"} {
		got, others, err := disks{sys, dev, boot}.find()
		if err != nil || got.device != filepath.Join(dev, want) || others != 1 || got.onBootDisk != (boot != "") || got.unformatted {
			t.Errorf("started from %q: %+v, %d others, %v; want %s", boot, got, others, err, want)
		}
	}
	// On the boot disk, a partition without a file system is found by its name.
	if err := os.WriteFile(filepath.Join(dev, "sdb2"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := (disks{sys, dev, esp2}).find(); err != nil || got.device != filepath.Join(dev, "sdb2") || !got.unformatted {
		t.Errorf("a wiped cache on the boot disk: %+v, %v", got, err)
	}
	if got, _, err := (disks{sys, dev, ""}).find(); err != nil || got.device != filepath.Join(dev, "sda2") || got.unformatted {
		t.Errorf("a wiped cache, boot disk unknown: %+v, %v", got, err)
	}
}

// A machine without USB waits for the boot disk too: SATA and NVMe disks appear after the driver of their
// controller.
func TestTheBootDiskIsWaitedForWithoutUSB(t *testing.T) {
	const esp1, esp2 = "0fc63daf-8483-4772-8e79-3d69d8477de4", "b0eef8d2-7c1a-4c3d-9f0e-0123456789ab"
	sys, dev := t.TempDir(), t.TempDir()
	gptDisk(t, sys, dev, "sda", esp1)
	gptDisk(t, sys, dev, "sdb", esp2)
	block, later := filepath.Join(sys, "class/block"), t.TempDir()
	move := func(from, to string) {
		for _, name := range []string{"sdb", "sdb1", "sdb2"} {
			if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	move(block, later)
	newDisk, result := make(chan struct{}), make(chan string, 1)
	go func() {
		found, others, err := disks{sys, dev, esp2}.wait(t.Context(), newDisk)
		result <- fmt.Sprintln(found.device, found.onBootDisk, others, err)
	}()
	select {
	case newDisk <- struct{}{}: // it has searched, and waits
	case got := <-result:
		t.Fatalf("not waited for: %s", got)
	}
	move(later, block)
	close(newDisk) // the search after the first signal may have found the disk already
	if got, want := <-result, fmt.Sprintln(filepath.Join(dev, "sdb2"), true, 1, nil); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestThePartitionOfTheBootLoaderIsRead(t *testing.T) {
	data := []byte{6, 0, 0, 0}
	for _, r := range "0FC63DAF-8483-4772-8E79-3D69D8477DE4" {
		data = append(data, byte(r), 0)
	}
	for _, end := range [][]byte{nil, {0, 0}, {0, 0, 1}} {
		if got := efiString(append(data, end...)); got != "0fc63daf-8483-4772-8e79-3d69d8477de4" {
			t.Errorf("%q", got)
		}
	}
	if got := efiString(make([]byte, 3)); got != "" {
		t.Errorf("%q", got)
	}
}

func TestAFileSystemThatTheKernelMarkedIsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	mke2fs(t, path, cacheLabel)
	p := cachePartition{device: path}
	if err := p.damage(); err != nil {
		t.Errorf("an undamaged one: %v", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{extErrors}, superblock+extStateAt)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := p.damage(); err == nil {
		t.Error("the mark was not seen")
	}
	if err := (cachePartition{device: path, unformatted: true}).damage(); err == nil {
		t.Error("a partition without a file system passes")
	}
}

func TestARecreatedCachePassesE2fsck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 700<<20)); err != nil {
		t.Fatal(err)
	}
	if err := formatCache(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := extLabel(f); got != cacheLabel {
		t.Errorf("its label is %q", got)
	}
	if out, err := exec.Command("/sbin/e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestTrustedMetadataAreSavedFromADamagedCache(t *testing.T) {
	old, fresh := t.TempDir(), t.TempDir()
	files := map[string]string{"trust/0123/timestamp.json": "{}", "trust/0123/1.root.json": "{1}", keyFile: "key"}
	for name, text := range files {
		path := filepath.Join(old, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	outside := filetest.Outside(t)
	for i, kind := range filetest.Kinds() {
		if err := kind.Make(filepath.Join(old, "trust", "0123", fmt.Sprintf("special-%d.json", i)), outside); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(old, "trust", "link")); err != nil {
		t.Fatal(err)
	}
	if err := restoreFiles(fresh, saveFiles(old)); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if data, err := os.ReadFile(filepath.Join(fresh, name)); err != nil || string(data) != text {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	for _, name := range []string{"blocks", "trust/link"} {
		if exists(filepath.Join(fresh, name)) {
			t.Errorf("%s was copied", name)
		}
	}
	filepath.WalkDir(fresh, func(path string, d fs.DirEntry, err error) error {
		if data, _ := os.ReadFile(path); string(data) == filetest.Content {
			t.Errorf("%s is the target of the link", path)
		}
		return err
	})
}

func TestAUSBDiskIsRemovable(t *testing.T) {
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

// The watcher may end while phase-boot save writes.
func TestAWatcherThatEndsLeavesTheCacheOfSave(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	unmounted := 0
	unmount := func() { unmounted++ }
	unlock, err := lockCache(t.Context(), lock)
	if err != nil {
		t.Fatal(err)
	}
	leaveCache(lock, unmount)
	if unmounted != 0 {
		t.Error("unmounted while another process has the cache")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := lockCache(ended, lock); !errors.Is(err, context.Canceled) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	leaveCache(lock, unmount)
	if unmounted != 1 {
		t.Error("left mounted")
	}
	if unlock, err = lockCache(t.Context(), lock); err != nil {
		t.Fatal("leaveCache kept the lock: ", err)
	}
	unlock()
}
