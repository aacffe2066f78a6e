package bootfile

import (
	"bytes"
	"compress/gzip"
	"io"
)

// Architectures, named as by `uname -m`, except arm64 (aarch64).
const (
	X86_64 = "x86_64"
	ARM64  = "arm64"
)

// CheckKernel refuses a file that kexec cannot start on a machine of arch, "x86_64" or "arm64": another
// kind of file, another architecture, a kernel that is shorter than its header says, or an arm64 Image, also
// a compressed one, that ReadImage refuses. x86_64 needs
// a 64-bit relocatable bzImage (Documentation/arch/x86/boot.rst); arm64 needs an Image
// (Documentation/arch/arm64/booting.rst), which may be compressed with gzip or be an EFI zboot image.
func CheckKernel(r io.ReaderAt, size int64, arch string) error {
	data, err := head(r, size, headSize)
	if err != nil {
		return err
	}
	kind := identify(data)
	if is := archOf(kind, data); is != "" && is != arch {
		return invalid("this is a kernel for %s, and the release is for %s; give the kernel of that architecture", is, arch)
	}
	switch kind {
	case KindBzImage:
		return checkBzImage(r, data, size)
	case KindArm64:
		if err := checkPE(r, data, size); err != nil {
			return err
		}
		_, err := ReadImage(r, size)
		return err
	case KindZboot:
		return checkZboot(r, data, size)
	case KindGzip:
		return checkGzipKernel(r, size, arch)
	}
	return notA("a kernel", kind, "give the kernel: vmlinuz, a bzImage or an arm64 Image")
}

// notA returns the error for a file of another kind.
func notA(want string, is Kind, remedy string) error {
	return invalid("this is %s, not %s; %s", is, want, remedy)
}

// archOf returns the architecture of a kernel, "" if its header does not say it.
func archOf(kind Kind, data []byte) string {
	switch kind {
	case KindBzImage:
		return X86_64
	case KindArm64:
		return ARM64
	case KindZboot:
		if h, ok := readPE(data); ok {
			return h.arch()
		}
	}
	return ""
}

// Fields of the x86 setup header (Documentation/arch/x86/boot.rst).
const (
	setupSects   = 0x1f1 // length of the real-mode code in sectors, 0 for 4
	sysSize      = 0x1f4 // length of the protected-mode code in 16 bytes
	bootFlag     = 0x1fe
	bootProtocol = 0x206
	loadFlags    = 0x211
	xLoadFlags   = 0x236
	initSize     = 0x260 // memory in which the kernel unpacks itself
	setupEnd     = 0x268
)

// checkBzImage makes the checks of the kernel's bzImage64_probe and checks the length.
func checkBzImage(r io.ReaderAt, data []byte, size int64) error {
	if len(data) < setupEnd {
		return truncated("kernel", size, headSize)
	}
	const loadedHigh, kernel64, above4G = 1, 1, 2
	if little.Uint16(data[bootFlag:]) != 0xaa55 || little.Uint16(data[bootProtocol:]) < 0x20c || data[loadFlags]&loadedHigh == 0 {
		return invalid("this x86 kernel is older than Linux 3.8, or not a bzImage; kexec cannot start it: give a newer one")
	}
	if little.Uint16(data[xLoadFlags:])&(kernel64|above4G) != kernel64|above4G {
		return invalid("this x86 kernel is a 32-bit kernel or cannot be relocated; give a kernel for x86_64")
	}
	sectors := int64(data[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	if want := (sectors+1)*512 + int64(little.Uint32(data[sysSize:]))*16; size < want {
		return truncated("kernel", size, want)
	}
	return checkPE(r, data, size)
}

// UnpackMemory returns how much memory a kernel needs in addition to its own length, in bytes: for an
// x86 kernel to unpack itself, for an arm64 Image the memory that it clears. It is 0 for another kind of file.
func UnpackMemory(r io.ReaderAt, size int64) int64 {
	data, err := head(r, size, setupEnd)
	if err != nil {
		return 0
	}
	if image, err := ReadImage(r, size); err == nil {
		return max(int64(image.Size)-size, 0)
	}
	if len(data) < setupEnd || identify(data) != KindBzImage {
		return 0
	}
	return max(int64(little.Uint32(data[initSize:]))-size, 0)
}

// checkZboot checks that the compressed kernel lies inside the file, by the header of
// drivers/firmware/efi/libstub/zboot-header.S.
func checkZboot(r io.ReaderAt, data []byte, size int64) error {
	const offsetAt, lengthAt, end = 8, 12, 64
	if len(data) < end {
		return truncated("kernel", size, end)
	}
	if h, ok := readPE(data); !ok || h.arch() != ARM64 {
		return invalid("this is a compressed EFI kernel (zboot) without the EFI header of arm64; copy or build it again")
	}
	if want := int64(little.Uint32(data[offsetAt:])) + int64(little.Uint32(data[lengthAt:])); size < want {
		return truncated("kernel", size, want)
	}
	if err := checkPE(r, data, size); err != nil {
		return err
	}
	z, err := openZboot(r, data)
	if err != nil {
		return err
	}
	defer z.Close()
	return checkImageHead(z)
}

// checkImageHead checks the header of a decompressed arm64 Image.
func checkImageHead(r io.Reader) error {
	data := make([]byte, imageHeader)
	if n, err := io.ReadFull(r, data); err != nil {
		return invalid("the compressed data of the kernel end after %d bytes or are damaged; copy or build it again", n)
	}
	_, err := ReadImage(bytes.NewReader(data), imageHeader)
	return err
}

// checkGzipKernel identifies the compressed file by its head and decompresses it to its end. Only arm64
// kernels are accepted: an x86 kernel decompresses itself and is not compressed as a whole.
func checkGzipKernel(r io.ReaderAt, size int64, arch string) error {
	z, err := gzip.NewReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return invalid("this is a damaged gzip file; copy or build the kernel again")
	}
	data := make([]byte, imageHeader)
	n, _ := io.ReadFull(z, data)
	kind := identify(data[:n])
	if kind != KindArm64 {
		return invalid("this is a gzip file with %s in it; give the kernel file of the distribution's package unchanged", kind)
	}
	if arch != ARM64 {
		return invalid("this is a kernel for %s, and the release is for %s; give the kernel of that architecture", ARM64, arch)
	}
	if _, err := ReadImage(bytes.NewReader(data), int64(n)); err != nil {
		return err
	}
	return decompress("kernel", r, 0, size, KindGzip)
}
