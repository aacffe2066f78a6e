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
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cacheLabel = "PHASE-CACHE"
	cacheDir   = "/cache"

	// Offsets in an ext2/3/4 superblock, which starts at byte 1024 of its
	// device (Documentation/filesystems/ext4/super.rst in the kernel).
	superblock = 1024
	extMagicAt = 0x38
	extLabelAt = 0x78
	extMagic   = 0xEF53

	// usbPatience is how long a disk behind a USB controller may take to appear.
	usbPatience = 3 * time.Second
)

// errNoCache says that the machine has no cache partition.
var errNoCache = errors.New("no ext4 file system labelled " + cacheLabel)

// errNoDriver says that the disk with the cache partition does not show up.
var errNoDriver = errors.New("the disk that this was started from has no driver here; build with --flavour generic")

// extLabel reads the label of an ext4 file system, "" when there is none.
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

// disks is where block devices are looked for.
type disks struct {
	sys, dev string
	boot     string // GUID of the partition that the machine was started from, "" for unknown
}

// A cachePartition is a partition that the cache may be on.
type cachePartition struct {
	device string
	booted bool // it is on the disk that the machine was started from
	blank  bool // it has the name of one, and no file system of that label
}

// find returns the cache partition: that of the disk which the machine was started from, or
// else the first by name. Every block device is opened for reading only. A partition of the
// boot disk that only its name tells counts too. others is how many more there are.
func (d disks) find() (found cachePartition, others int, err error) {
	names, err := d.list()
	if err != nil {
		return found, 0, err
	}
	var all []cachePartition
	seen := false // the boot disk
	for _, name := range names {
		p := cachePartition{device: filepath.Join(d.dev, strings.ReplaceAll(name, "!", "/"))}
		label, onBoot := d.look(name)
		p.booted, seen = onBoot, seen || onBoot
		p.blank = label != cacheLabel
		if !p.blank || p.booted && d.partName(name) == cacheLabel {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b cachePartition) int { return a.rank() - b.rank() })
	switch {
	case len(all) > 0:
		return all[0], len(all) - 1, nil
	case d.boot != "" && !seen:
		return found, 0, errNoDriver
	}
	return found, 0, errNoCache
}

func (p cachePartition) rank() int {
	switch {
	case p.booted:
		return 0
	case p.blank:
		return 2
	}
	return 1
}

// list returns the names of the block devices that may hold a cache.
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

// look returns the label of a device's file system, and whether the machine was started
// from its disk.
func (d disks) look(name string) (label string, booted bool) {
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

func (d disks) open(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(d.dev, strings.ReplaceAll(name, "!", "/")), os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// parent is the disk of a partition, and of a disk itself.
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

// partName is the name that the partition table has for a partition.
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

// wait is find that waits for a USB disk: each block device that the kernel announces
// starts another look. The cache of another disk than the booted one is taken only when
// the time is over.
func (d disks) wait(ctx context.Context, more <-chan struct{}) (found cachePartition, others int, err error) {
	patience := time.Duration(0)
	if usb, err := filepath.Glob(filepath.Join(d.sys, "bus/usb/devices/*")); err == nil && len(usb) > 0 {
		patience = usbPatience
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		found, others, err = d.find()
		if err == nil && (found.booted || d.boot == "") {
			return found, others, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return found, others, err
		}
	}
}

// onUSB reports whether a block device hangs on USB: somebody may pull it, and a target has
// no driver for it.
func onUSB(sys, device string) bool {
	path, err := filepath.EvalSymlinks(filepath.Join(sys, "class/block", filepath.Base(device)))
	return err == nil && strings.Contains(path, "/usb")
}

func unmountCache() {
	if err := unix.Unmount(cacheDir, 0); errors.Is(err, unix.EBUSY) {
		_ = unix.Unmount(cacheDir, unix.MNT_DETACH)
	}
}
