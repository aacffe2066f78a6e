package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cacheLabel = "PHASE-CACHE"
	cacheDir   = "/cache"

	// Offsets in an ext2/3/4 superblock, which starts at byte 1024 of the device
	// (Documentation/filesystems/ext4/super.rst in the kernel).
	superblock = 1024
	extMagicAt = 0x38
	extLabelAt = 0x78
	extMagic   = 0xEF53

	// diskTimeout is how long the boot waits for a disk to appear: on USB, and the boot disk on any bus. SATA,
	// NVMe and SD cards appear some time after the driver of their controller was loaded.
	diskTimeout = 3 * time.Second
)

// errNoCache is the error for a machine without a cache partition.
var errNoCache = errors.New("no ext4 file system labelled " + cacheLabel)

// errNoDriver is the error for a machine whose boot disk does not appear.
var errNoDriver = errors.New("no driver for the boot disk; build the image with --flavour generic")

// extLabel returns the label of an ext2, ext3 or ext4 file system, "" for another content.
func extLabel(r io.ReaderAt) string {
	var sb [256]byte
	if _, err := r.ReadAt(sb[:], superblock); err != nil {
		return ""
	}
	if binary.LittleEndian.Uint16(sb[extMagicAt:]) != extMagic {
		return ""
	}
	label, _, _ := bytes.Cut(sb[extLabelAt:extLabelAt+16], []byte{0})
	return string(label)
}

// disks searches block devices.
type disks struct {
	sys, dev string
	boot     string // GUID of the partition with the boot loader, "" for unknown
}

// A cachePartition is a partition for the cache.
type cachePartition struct {
	device      string
	disk        string // the whole disk
	number      int    // in the partition table, from 1; 0 for a whole disk
	onBootDisk  bool   // it is on the disk with the boot loader
	unformatted bool   // the partition table names it PHASE-CACHE; its file system has no such label
}

// find returns the cache partition: the one on the boot disk, or else the first by device name.
// It opens every block device for reading only. On the boot disk, a partition that has only the
// name in the partition table counts too. others is the number of further cache partitions.
func (d disks) find() (found cachePartition, others int, err error) {
	names, err := d.list()
	if err != nil {
		return found, 0, err
	}
	var all []cachePartition
	bootDiskSeen := false
	for _, name := range names {
		p := cachePartition{device: d.path(name), disk: d.path(d.parent(name)), number: d.number(name)}
		label, onBootDisk := d.inspect(name)
		p.onBootDisk, bootDiskSeen = onBootDisk, bootDiskSeen || onBootDisk
		p.unformatted = label != cacheLabel
		if !p.unformatted || p.onBootDisk && d.partName(name) == cacheLabel {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b cachePartition) int { return a.rank() - b.rank() })
	switch {
	case len(all) > 0:
		return all[0], len(all) - 1, nil
	case d.boot != "" && !bootDiskSeen:
		return found, 0, errNoDriver
	}
	return found, 0, errNoCache
}

// rank returns the order of preference: lower is better.
func (p cachePartition) rank() int {
	switch {
	case p.onBootDisk:
		return 0
	case p.unformatted:
		return 2
	}
	return 1
}

// list returns the names of the block devices that may contain a cache.
func (d disks) list() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(d.sys, "class/block"))
	if err != nil {
		return nil, fmt.Errorf("block devices: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "ram") && !strings.HasPrefix(name, "zram") {
			names = append(names, name)
		}
	}
	return names, nil
}

// inspect returns the label of a device's file system, and whether the device is on the boot
// disk.
func (d disks) inspect(name string) (label string, onBootDisk bool) {
	if f, err := d.open(name); err == nil {
		label = extLabel(f)
		f.Close()
	}
	if d.boot == "" {
		return label, false
	}
	f, err := d.open(d.parent(name))
	if err != nil {
		return label, false
	}
	defer f.Close()
	return label, hasPartition(f, d.boot)
}

// path returns the path of a device.
func (d disks) path(name string) string {
	return filepath.Join(d.dev, strings.ReplaceAll(name, "!", "/"))
}

// number returns the number of a partition, 0 for a whole disk.
func (d disks) number(name string) int {
	text, _ := os.ReadFile(filepath.Join(d.sys, "class/block", name, "partition"))
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func (d disks) open(name string) (*os.File, error) {
	return os.OpenFile(d.path(name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// parent returns the disk of a partition; the parent of a disk is the disk itself.
func (d disks) parent(name string) string {
	path, err := filepath.EvalSymlinks(filepath.Join(d.sys, "class/block", name))
	if err != nil {
		return name
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); err != nil {
		return name
	}
	return filepath.Base(filepath.Dir(path))
}

// partName returns the name of a partition in the partition table.
func (d disks) partName(name string) string {
	text, err := os.ReadFile(filepath.Join(d.sys, "class/block", name, "uevent"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok {
			return name
		}
	}
	return ""
}

// wait searches as find does and, on a machine with USB or if the boot disk is known, waits up to diskTimeout
// for the boot disk. It searches again for each signal on newDisk. A cache on another disk is used only after
// that time.
func (d disks) wait(ctx context.Context, newDisk <-chan struct{}) (found cachePartition, others int, err error) {
	timeout := time.Duration(0)
	if hasUSB(d.sys) || d.boot != "" {
		timeout = diskTimeout
	}
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	for {
		found, others, err = d.find()
		if err == nil && (found.onBootDisk || d.boot == "") {
			return found, others, nil
		}
		select {
		case <-newDisk:
		case <-ctx.Done():
			return found, others, err
		}
	}
}

// hasUSB reports whether the machine has a USB controller with a driver.
func hasUSB(sys string) bool {
	devices, err := filepath.Glob(filepath.Join(sys, "bus/usb/devices/*"))
	return err == nil && len(devices) > 0
}

// onUSB reports whether a block device is attached by USB. Such a disk may be unplugged, and the
// target has no driver for it.
func onUSB(sys, device string) bool {
	path, err := filepath.EvalSymlinks(filepath.Join(sys, "class/block", filepath.Base(device)))
	return err == nil && strings.Contains(path, "/usb")
}
