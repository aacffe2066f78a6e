package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/gpt"
)

// growPartition makes the cache partition on the boot disk as large as the disk, in the partition table
// and in the running kernel, and moves the backup of the table to the end of the disk. A disk that is
// write-protected, or has its final size already, is not opened for writing.
func (p cachePartition) growPartition() error {
	disk, err := os.OpenFile(p.disk, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	plan, err := gpt.Look(disk, size, p.number)
	if err != nil {
		return err
	}
	if plan.Needed {
		if protected, err := unix.IoctlGetInt(int(disk.Fd()), unix.BLKROGET); err != nil || protected != 0 {
			return err
		}
		if err := growTable(p.disk, size, p.number); err != nil {
			return err
		}
	}
	return p.tellKernel(disk, plan.Is)
}

func growTable(path string, size int64, number int) error {
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	_, err = gpt.Grow(disk, size, number)
	return err
}

// tellKernel gives the kernel the new size of the partition. The kernel allows that also for a mounted one.
func (p cachePartition) tellKernel(disk *os.File, is gpt.Partition) error {
	if size, err := deviceSize(p.device); err != nil || size >= is.Size {
		return err
	}
	part := unix.BlkpgPartition{Start: is.Start, Length: is.Size, Pno: int32(p.number)}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("the kernel refuses the new size of partition %d: %w; it is used at the next boot", p.number, errno)
	}
	return nil
}

func deviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

// Offsets in a superblock, see extMagicAt.
const (
	extBlocksLow  = 0x04
	extBlockSize  = 0x18 // log2(size / 1024)
	extBlocksHigh = 0x150
)

// extSize returns the size of the file system on a device, and of its blocks, in bytes.
func extSize(path string) (size, block int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var sb [1024]byte
	if _, err := f.ReadAt(sb[:], superblock); err != nil {
		return 0, 0, err
	}
	u32 := binary.LittleEndian.Uint32
	shift := u32(sb[extBlockSize:])
	if binary.LittleEndian.Uint16(sb[extMagicAt:]) != extMagic || shift > 6 {
		return 0, 0, errors.New("no ext4 file system")
	}
	block = 1024 << shift
	blocks := int64(u32(sb[extBlocksLow:])) | int64(u32(sb[extBlocksHigh:]))<<32
	if blocks < 0 || blocks > (1<<62)/block {
		return 0, 0, errors.New("no valid ext4 file system")
	}
	return blocks * block, block, nil
}

// resizeFS is EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h: _IOW('f', 16, __u64).
const resizeFS = 0x40086610

// growFileSystem makes the mounted file system as large as its partition. It returns its sizes before and
// after. A power cut leaves the old size or a larger one: the kernel writes each step to the journal.
func growFileSystem(device, dir string) (was, is int64, err error) {
	was, block, err := extSize(device)
	if err != nil {
		return 0, 0, err
	}
	size, err := deviceSize(device)
	if err != nil || size/block*block <= was {
		return was, was, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return was, was, err
	}
	defer f.Close()
	blocks := uint64(size / block)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		err = fmt.Errorf("the kernel does not enlarge its file system: %w", errno)
	} else if err = unix.Syncfs(int(f.Fd())); err != nil {
		err = fmt.Errorf("sync: %w", err)
	}
	is, _, sizeErr := extSize(device)
	return was, is, errors.Join(err, sizeErr)
}

// openCache opens a cache partition with the rights of the mode. If it may be written and is on the boot
// disk, it grows to the size of the disk, which is larger than the image at the first boot of a stick.
func (b *boot) openCache(ctx context.Context, p cachePartition, rights string) (got, summary string, err error) {
	grows := rights == "rw" && p.onBootDisk && p.number > 0
	var growErr error
	if grows {
		growErr = p.growPartition()
	}
	got, summary, err = useCache(ctx, p, rights)
	if err != nil || got != "rw" || !grows {
		return got, summary, err
	}
	var was, is int64
	if growErr == nil {
		words := func(so time.Duration) string { return fmt.Sprintf("cache: growing its file system, %v so far", so) }
		b.report.While(words, func() { was, is, growErr = growFileSystem(p.device, cacheDir) })
	}
	if is > was {
		summary += fmt.Sprintf(", grown from %s to %s", report.Bytes(was), report.Bytes(is))
	}
	if growErr != nil {
		summary += fmt.Sprintf("; not grown to the size of the disk: %v", growErr)
	}
	return got, summary, nil
}
