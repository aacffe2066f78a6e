package kexecload

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// Next is what the next kernel starts with.
type Next struct {
	Kernel  *os.File // sealed, an arm64 Image
	Initrd  *os.File // sealed, may be empty
	Tree    *os.File // sealed, a device tree of the release; nil for that of the running kernel
	Cmdline string
}

// Files of the running kernel.
const (
	iomemFile = "/proc/iomem"
	treeFile  = "/sys/firmware/fdt"
)

// archARM64 is KEXEC_ARCH_AARCH64 of linux/kexec.h: the ELF machine number in the upper half.
const archARM64 = 183 << 16

// Load gives the next kernel to kexec_load(2). An error of the system call can be read with errors.Is.
func Load(n Next) error {
	kernel, err := mapFile(n.Kernel)
	if err != nil {
		return err
	}
	defer kernel.unmap()
	initrd, err := mapFile(n.Initrd)
	if err != nil {
		return err
	}
	defer initrd.unmap()
	tree, err := n.tree()
	if err != nil {
		return err
	}
	header, err := bootfile.ReadImage(n.Kernel, int64(len(kernel)))
	if err != nil {
		return fmt.Errorf("kernel of the release: %w", err)
	}
	page := uint64(os.Getpagesize())
	segments, err := plan(kernel, initrd, tree, header, n.Cmdline, page)
	if err != nil {
		return err
	}
	return load(segments, page)
}

// tree returns the device tree on which the next kernel's is based: the running kernel's, or that of
// the release with what UEFI has told the running kernel.
func (n Next) tree() (*fdt, error) {
	data, err := os.ReadFile(treeFile)
	if err != nil {
		return nil, fmt.Errorf("device tree of this machine: %w", err)
	}
	running, err := parseFDT(data)
	if err != nil || n.Tree == nil {
		return running, err
	}
	data, err = io.ReadAll(io.NewSectionReader(n.Tree, 0, maxTree+1))
	if err != nil {
		return nil, err
	}
	released, err := parseFDT(data)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return released, released.takeUEFI(running)
}

// A mapping has the bytes of a sealed file.
type mapping []byte

// mapFile maps a sealed file. The mapping is private, because Linux before 6.7 refuses a
// shared one of a file that is sealed against writing; a page that is not written is not copied.
func mapFile(f *os.File) (mapping, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return data, nil
}

func (m mapping) unmap() {
	if m != nil {
		_ = unix.Munmap(m)
	}
}

// A segment is the bytes for one address. The kernel clears the rest of its memory, up to size.
type segment struct {
	data []byte
	at   uint64
	size uint64
}

// plan returns the segments. The purgatory, where the next kernel begins, is the first one.
func plan(kernel, initrd []byte, tree *fdt, header bootfile.Image, cmdline string, page uint64) ([]segment, error) {
	iomem, err := os.ReadFile(iomemFile)
	if err != nil {
		return nil, err
	}
	free, err := freeMemory(string(iomem), page)
	if err != nil {
		return nil, err
	}
	kernelSize := max(header.Size, uint64(len(kernel)))
	at, err := place(free, sizes{textOffset: header.TextOffset, kernel: kernelSize, initrd: uint64(len(initrd)), page: page})
	if err != nil {
		return nil, err
	}
	treeData, err := tree.next(chosen{cmdline, span{at.initrd, at.initrd + uint64(len(initrd))}, rand.Reader})
	if err != nil {
		return nil, err
	}
	code := purgatory(at.kernel, at.tree)
	segments := []segment{
		{code, at.purgatory, uint64(len(code))},
		{kernel, at.kernel, kernelSize},
		{treeData, at.tree, uint64(len(treeData))},
	}
	if len(initrd) > 0 {
		segments = append(segments, segment{initrd, at.initrd, uint64(len(initrd))})
	}
	return segments, nil
}

// kexecSegment is struct kexec_segment of linux/kexec.h.
type kexecSegment struct {
	data *byte
	len  uintptr
	at   uintptr
	size uintptr
}

// load calls kexec_load(2). The next kernel begins at the first segment.
func load(segments []segment, page uint64) error {
	list := make([]kexecSegment, len(segments))
	for i, s := range segments {
		list[i] = kexecSegment{unsafe.SliceData(s.data), uintptr(len(s.data)), uintptr(s.at), uintptr(roundUp(s.size, page))}
	}
	_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, list[0].at, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])), archARM64, 0, 0)
	runtime.KeepAlive(segments)
	if errno != 0 {
		return errno
	}
	return nil
}
