// Package looptest attaches files as loop devices, for tests that need a real block device. It needs
// root. imagebuild, cmd/phase-image and bootclient/machine use it; start at Attach. A device is
// detached when the test ends, also if the test is killed.
package looptest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Available reports whether this process may attach devices: whether it runs as root. A root without
// loop devices is an error of the machine, on which Attach fails.
func Available() bool { return os.Geteuid() == 0 }

// Need skips a test of an ordinary user.
func Need(t testing.TB) {
	t.Helper()
	if !Available() {
		t.Skip("loop devices need root")
	}
}

// A Device is an attached loop device.
type Device struct {
	Path    string // /dev/loop7
	control *os.File
}

// Attach attaches a file with sectors of 512 bytes. flags are LO_FLAGS_*.
func Attach(t testing.TB, file string, flags uint32) *Device {
	return AttachSectors(t, file, flags, 512)
}

// AttachSectors attaches a file with sectors of a size in bytes.
func AttachSectors(t testing.TB, file string, flags, sector uint32) *Device {
	t.Helper()
	mode := os.O_RDWR
	if flags&unix.LO_FLAGS_READ_ONLY != 0 {
		mode = os.O_RDONLY
	}
	backing, err := os.OpenFile(file, mode, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: sector}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | flags
	copy(config.Info.File_name[:], file)
	d, err := attach(&config, mode)
	if err != nil {
		t.Fatalf("loop device: %v; this test needs /dev/loop-control and the module loop", err)
	}
	t.Cleanup(func() { d.control.Close() })
	return d
}

// attach takes the first free device. Another process may take it first.
func attach(config *unix.LoopConfig, mode int) (*Device, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		f, err := os.OpenFile(path, mode, 0) // a device that was opened for reading becomes read-only
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), config)
		if err == nil {
			return &Device{path, f}, nil
		}
		f.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
}

// SetCapacity takes the size of the device from its file again. The size 0 is that of a stick which
// was pulled.
func (d *Device) SetCapacity(t testing.TB) {
	t.Helper()
	if err := unix.IoctlSetInt(int(d.control.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
}

// AddPartition gives the device a partition, as the kernel does it after it has read a partition table,
// and returns its path. start and size are bytes. The device needs LO_FLAGS_PARTSCAN.
func (d *Device) AddPartition(t testing.TB, number int, start, size int64) string {
	t.Helper()
	part := unix.BlkpgPartition{Start: start, Length: size, Pno: int32(number)}
	change := func(op int32) syscall.Errno {
		arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.control.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
		return errno
	}
	if errno := change(unix.BLKPG_ADD_PARTITION); errno != 0 && errno != unix.EBUSY { // EBUSY: the kernel has read the table
		t.Fatalf("partition %d: %v", number, errno)
	}
	t.Cleanup(func() { change(unix.BLKPG_DEL_PARTITION) })
	return fmt.Sprintf("%sp%d", d.Path, number)
}
