package bootfile

import "io"

// An Image is the header of an arm64 Image (Documentation/arch/arm64/booting.rst).
type Image struct {
	TextOffset uint64 // from a multiple of 2 MiB to the begin of the kernel
	Size       uint64 // with the memory that the kernel clears itself
}

// imageHeader is the size of the header in bytes.
const imageHeader = 64

// ReadImage reads the header of an arm64 Image. It refuses a kernel that kexec cannot place: of Linux
// before 3.17, big-endian, or with a text offset that is not in whole pages of 4 KiB.
func ReadImage(r io.ReaderAt, size int64) (Image, error) {
	const textOffsetAt, sizeAt, flagsAt = 8, 16, 24
	const maxSize, block, page, bigEndian = 1 << 30, 2 << 20, 4 << 10, 1
	data, err := head(r, size, headSize)
	if err != nil {
		return Image{}, err
	}
	if kind := identify(data); kind != KindArm64 {
		return Image{}, notA("an arm64 kernel (Image)", kind, "give the kernel: an arm64 Image")
	}
	if len(data) < imageHeader {
		return Image{}, truncated("kernel", size, imageHeader)
	}
	h := Image{TextOffset: little.Uint64(data[textOffsetAt:]), Size: little.Uint64(data[sizeAt:])}
	switch {
	case h.Size == 0:
		return Image{}, invalid("this arm64 kernel is older than Linux 3.17; kexec cannot start it: give a newer one")
	case h.Size > maxSize, h.TextOffset >= block, h.TextOffset%page != 0:
		return Image{}, invalid("this arm64 kernel has a damaged header; copy or build it again")
	case little.Uint64(data[flagsAt:])&bigEndian != 0:
		return Image{}, invalid("this arm64 kernel is big-endian; give a little-endian one")
	}
	return h, nil
}
