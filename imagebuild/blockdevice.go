package imagebuild

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A blockDevice is a disk that this process has opened exclusively and without the page cache: what
// is read comes from the device, and the time of a write is that of the device.
type blockDevice struct {
	Device
	*os.File
	old []byte // a block that is read
}

// openDevice opens a disk of at least size bytes for this process alone. The kernel refuses that for a
// disk that is mounted, in any mount namespace, or part of LVM, RAID or an open dm-crypt.
func openDevice(name string, size int64, allowFixed bool) (*blockDevice, error) {
	return openDeviceWith(name, size, allowFixed, unix.O_DIRECT)
}

// openDeviceWith is openDevice with other flags than O_DIRECT.
func openDeviceWith(name string, size int64, allowFixed bool, flags int) (*blockDevice, error) {
	if err := statDevice(name); err != nil {
		return nil, err
	}
	look, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("device: %w; run it as root", err)
	}
	defer look.Close()
	d, err := host{"/"}.deviceOf(look)
	if err == nil {
		err = d.refuse(size, allowFixed)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_EXCL|flags, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, optionsf("device %s: in use: mounted, or part of LVM, RAID or an open dm-crypt; lsblk shows its use; release it first", name)
	case errors.Is(err, unix.EROFS):
		return nil, optionsf("device %s: write-protected; move the switch on it, or use another device", name)
	case errors.Is(err, unix.ENOMEDIUM):
		return nil, fmt.Errorf("device %s: %w; insert a card", name, err)
	case err != nil:
		return nil, fmt.Errorf("device: %w; run it as root", err)
	}
	out := &blockDevice{d, f, alignedBlock()}
	if err := out.check(look); err != nil {
		f.Close()
		return nil, err
	}
	return out, nil
}

// check refuses another device than the one that was judged, and sectors of another size than those of
// the partition table.
func (d *blockDevice) check(judged *os.File) error {
	a, err1 := judged.Stat()
	b, err2 := d.Stat()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !os.SameFile(a, b) {
		return fmt.Errorf("device %s: replaced in this moment; run it again", d.Path)
	}
	n, err := unix.IoctlGetInt(int(d.Fd()), unix.BLKSSZGET)
	if err == nil && n != sector {
		err = optionsf("device %s: its sectors have %d bytes, those of the image %d; firmware would not find the partition table; use another device", d.Path, n, sector)
	}
	return err
}

// Zero makes a range of at most a block zeros. If the device cannot do that itself, it reads the range and
// writes it only if it has other bytes. BLKDISCARD would be faster, but may leave any bytes there.
func (d *blockDevice) Zero(at, size int64) (written int64, err error) {
	if d.zeroes {
		area := [2]uint64{uint64(at), uint64(size)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&area)))
		if errno != 0 {
			return 0, fmt.Errorf("zeros at byte %d: %w", at, errno)
		}
		return 0, nil
	}
	old := d.old[:size]
	if err := readAll(d, old, at); err != nil {
		return 0, err
	}
	if allZero(old) {
		return 0, nil
	}
	clear(old)
	n, err := d.WriteAt(old, at)
	return int64(n), err
}

// eraseOldBackup erases the header of an older partition table at the end of the disk: firmware would
// use it while the first table is missing (UEFI 2.10, 5.3.2). If the image ends there, its own follows.
func (d *blockDevice) eraseOldBackup() error {
	end := d.Size / sector * sector
	b := d.old[:sector]
	if err := readAll(d, b, end-sector); err != nil {
		return err
	}
	if string(b[:8]) != "EFI PART" {
		return nil
	}
	clear(b)
	_, err := d.WriteAt(b, end-sector)
	return errors.Join(err, d.Sync())
}

// finish lets the kernel read the new partition table, and closes the device.
func (d *blockDevice) finish() error {
	_ = unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0) // loop devices without partitions refuse it
	return d.Close()
}

// gone reports whether the device was unplugged: Linux sets its size to 0.
func (d *blockDevice) gone() bool {
	size, err := d.Seek(0, io.SeekEnd)
	return err == nil && size == 0 || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

// skipTo returns the offset of the first byte of b at a multiple of align in memory.
func skipTo(b []byte, align uintptr) uintptr {
	return (align - uintptr(unsafe.Pointer(&b[0]))%align) % align
}
