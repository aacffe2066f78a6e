package imagebuild

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A hostTree is a root folder with the files of /sys, /proc and /dev that describe disks.
type hostTree struct {
	t *testing.T
	host
}

func (h hostTree) write(text string, elem ...string) {
	h.t.Helper()
	path := h.path(elem...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// add describes a block device by its folder below sys/devices. files are pairs of name and text.
func (h hostTree) add(dir, number string, files ...string) {
	h.t.Helper()
	files = append([]string{"dev", number, "size", "62500000", "ro", "0"}, files...)
	for i := 0; i < len(files); i += 2 {
		h.write(files[i+1], "sys/devices", dir, files[i])
	}
	name := filepath.Base(dir)
	h.write("", "dev", name)
	links := []string{h.path("sys/class/block", name), h.path("sys/dev/block", number)}
	if _, err := os.Stat(h.path("sys/devices", dir, "partition")); err != nil {
		links = append(links, h.path("sys/block", name))
	}
	for _, link := range links {
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(h.path("sys/devices", dir), link)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// laptop has a system on dm-crypt and LVM, a stick, a mounted stick, cards, and a btrfs disk.
func laptop(t *testing.T) hostTree {
	h := hostTree{t, host{t.TempDir()}}
	const nvme, ports = "pci0000:00/nvme/nvme0/nvme0n1", "pci0000:00/0000:00:14.0/usb2/"
	h.add(nvme, "259:0", "device/model", "Fast 1TB   ", "device/serial", "S1", "removable", "0")
	h.add(nvme+"/nvme0n1p1", "259:1", "partition", "1")
	h.add(nvme+"/nvme0n1p3", "259:3", "partition", "3", "holders/dm-0/x", "")
	h.add("virtual/block/dm-0", "253:0", "dm/name", "crypt", "holders/dm-1/x", "")
	h.add("virtual/block/dm-1", "253:1", "dm/name", "vg-root")
	h.add("virtual/block/dm-2", "253:2", "dm/name", "vg-swap")

	h.write("4C530001", "sys/devices", ports+"2-1/serial")
	h.add(ports+"2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "8:16", "device/vendor", "SanDisk ", "device/model", "Ultra\x1b[2J", "removable", "1")
	h.add(ports+"2-2/2-2:1.0/host7/target7:0:0/7:0:0:0/block/sdc", "8:32", "removable", "1", "queue/write_zeroes_max_bytes", "1048576")
	h.add(ports+"2-2/2-2:1.0/host7/target7:0:0/7:0:0:0/block/sdc/sdc1", "8:33", "partition", "1")
	h.add(ports+"2-3/2-3:1.0/host8/target8:0:0/8:0:0:0/block/sdd", "8:48", "removable", "1", "size", "0") // a reader without a card
	h.add(ports+"2-4/2-4:1.0/host9/target9:0:0/9:0:0:0/block/sde", "8:64", "removable", "0", "ro", "1")   // an external disk
	h.add("pci0000:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "179:0", "device/type", "MMC", "device/name", "DG4016", "removable", "0")
	h.add("pci0000:00/mmc_host/mmc1/mmc1:0001/block/mmcblk1", "179:8", "device/type", "SD", "device/name", "SC16G", "removable", "0")
	h.add("pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda", "8:0", "removable", "0")
	h.add("pci0000:00/ata2/host1/target1:0:0/1:0:0:0/block/sr0", "11:0", "removable", "1")
	h.add("pci0000:00/ata3/host2/target2:0:0/2:0:0:0/block/sdf", "8:80", "removable", "0", "holders/md0/x", "")
	h.add("virtual/block/md0", "9:0", "md/level", "raid1")

	h.write(`22 27 0:21 / /proc rw - proc proc rw
27 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw
28 27 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw
30 27 8:33 / /media/my\040stick rw - vfat /dev/sdc1 rw
31 27 0:44 /sub /data rw - btrfs /dev/sda rw`, "proc/self/mountinfo")
	h.write("Filename Type Size Used Priority\n/dev/dm-2 partition 1 0 -2\n/data/file file 1 0 -3", "proc/swaps")
	return h
}

func TestRemovableDevicesAreListed(t *testing.T) {
	list, err := laptop(t).removable()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range list {
		got = append(got, strings.Join([]string{d.Path, d.Bus, d.Model, d.Serial, strings.Join(d.Mounted, "+")}, "|"))
	}
	want := "/dev/mmcblk1|mmc|SC16G||\n/dev/sdb|usb|SanDisk Ultra\x1b[2J|4C530001|\n/dev/sdc|usb|||/media/my stick\n/dev/sde|usb|||"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%q, want\n%q", s, want)
	}
	if list[1].Size != 32_000_000_000 || list[2].zeroes == list[1].zeroes {
		t.Errorf("%+v", list)
	}
}

func TestDevicesThatMustNotBeWrittenAreRefused(t *testing.T) {
	h := laptop(t)
	for name, c := range map[string]struct {
		size  int64
		fixed bool
		words string // "": not refused
	}{
		"sdb":       {1 << 30, false, ""},
		"mmcblk1":   {1 << 30, false, ""},
		"mmcblk0":   {1 << 30, false, "not removable; add --allow-fixed"},
		"nvme0n1":   {1 << 30, true, "a disk of this running system: it has /, /boot/efi; name another"},
		"nvme0n1p1": {1 << 30, true, "a partition; name the whole disk, /dev/nvme0n1"},
		"dm-1":      {1 << 30, true, "a volume of LVM, dm-crypt or RAID"},
		"md0":       {1 << 30, true, "a volume of LVM, dm-crypt or RAID"},
		"sdf":       {1 << 30, true, "in use by md0"},
		"sda":       {1 << 30, true, "mounted at /data; unmount it"},
		"sdc":       {1 << 30, false, "mounted at /media/my stick; unmount it"},
		"sde":       {1 << 30, false, "write-protected"},
		"sdd":       {1 << 30, false, "too small: 0 bytes"},
	} {
		d, err := h.device(name)
		if err != nil {
			t.Fatal(err)
		}
		err = d.refuse(c.size, c.fixed)
		if c.words == "" && err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrInvalid) || c.words == "" || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: got %v, want %q", name, err, c.words)
		}
	}
	if d, err := h.device("dm-2"); err != nil || !d.System || d.Mounted[0] != swap {
		t.Errorf("a swap device: %+v, %v", d, err)
	}
}
