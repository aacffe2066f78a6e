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

// findLabel looks at every block device that /sys/class/block lists, opened for
// reading, and returns the first that carries the label.
func findLabel(sys, dev, label string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "class/block"))
	if err != nil {
		return "", fmt.Errorf("block devices: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") {
			continue
		}
		path := filepath.Join(dev, strings.ReplaceAll(name, "!", "/"))
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		found := extLabel(f)
		f.Close()
		if found == label {
			return path, nil
		}
	}
	return "", errNoCache
}

// waitLabel is findLabel that waits for a USB disk: each block device that the
// kernel announces starts another look.
func waitLabel(ctx context.Context, disk <-chan struct{}) (string, error) {
	patience := time.Duration(0)
	if usb, err := filepath.Glob("/sys/bus/usb/devices/*"); err == nil && len(usb) > 0 {
		patience = usbPatience
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		path, err := findLabel("/sys", "/dev", cacheLabel)
		if err == nil {
			return path, nil
		}
		select {
		case <-disk:
		case <-ctx.Done():
			return "", err
		}
	}
}

// onUSB reports whether a block device hangs on USB: somebody may pull it, and a target has
// no driver for it.
func onUSB(sys, device string) bool {
	path, err := filepath.EvalSymlinks(filepath.Join(sys, "class/block", filepath.Base(device)))
	return err == nil && strings.Contains(path, "/usb")
}

// mountCache mounts the cache partition at dir. Read-only means that the device is not
// written at all, not even its journal.
func mountCache(device, dir string, write bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	flags, data := uintptr(quiet), "errors=remount-ro"
	if !write {
		flags, data = quiet|unix.MS_RDONLY, "noload"
	}
	if err := unix.Mount(device, dir, "ext4", flags, data); err != nil {
		return fmt.Errorf("cache %s: mount: %w; check it with e2fsck -f, or write the stick anew", device, err)
	}
	return nil
}

func unmountCache() {
	if err := unix.Unmount(cacheDir, 0); errors.Is(err, unix.EBUSY) {
		_ = unix.Unmount(cacheDir, unix.MNT_DETACH)
	}
}
