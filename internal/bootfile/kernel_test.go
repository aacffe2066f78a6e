package bootfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
)

// kernelOf returns a file of n bytes with fields at offsets.
func kernelOf(n int, fields map[int]string) []byte {
	data := make([]byte, n)
	for at, text := range fields {
		copy(data[at:], text)
	}
	return data
}

// bzImage returns a kernel with 5 sectors of setup code and 64 KiB of code.
func bzImage() []byte {
	return kernelOf(5*512+64<<10, map[int]string{
		0x1f1: "\x04", 0x1f4: "\x00\x10\x00\x00", 0x1fe: "\x55\xaa", 0x202: "HdrS", 0x206: "\x0f\x02", 0x211: "\x01", 0x236: "\x3f\x00",
	})
}

// pe writes an EFI header at 0x80: one section that ends at 8192, and a signature of 512 bytes.
func pe(data []byte, machine string) []byte {
	const at = 0x80
	for off, text := range map[int]string{
		0: "MZ", 0x3c: "\x80", at: "PE\x00\x00" + machine + "\x01\x00", at + 20: "\xf0\x00",
		at + 24: "\x0b\x02", at + 24 + 108: "\x10\x00\x00\x00", at + 24 + 144: "\x00\x20\x00\x00\x00\x02\x00\x00",
		at + 24 + 240 + 16: "\x00\x10\x00\x00\x00\x10\x00\x00",
	} {
		copy(data[off:], text)
	}
	return data
}

func armImage() []byte {
	return pe(kernelOf(8192+512, map[int]string{17: "\x10", 56: "ARM\x64"}), "\x64\xaa")
}

func zboot() []byte {
	data := pe(kernelOf(8192+512, map[int]string{4: "zimg", 8: "\x00\x10\x00\x00", 12: "\x00\x08\x00\x00", 24: "gzip"}), "\x64\xaa")
	return with(data, 4096, string(gzipped(imageOf(0, 1<<20, 0xa))))
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func with(data []byte, at int, text string) []byte {
	copy(data[at:], text)
	return data
}

func TestAKernelMustBeCompleteAndOfItsArchitecture(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		arch string
		want error  // nil for an accepted one
		says string // part of the refusal
	}{
		{"bzImage", bzImage(), X86_64, nil, ""},
		{"bzImage with an EFI header", pe(bzImage(), "\x64\x86"), X86_64, nil, ""},
		{"bzImage with a signature appended", append(bzImage(), "signature"...), X86_64, nil, ""},
		{"arm64 Image", armImage(), ARM64, nil, ""},
		{"arm64 Image without an EFI header", imageOf(0, 1<<20, 0xa), ARM64, nil, ""},
		{"arm64 Image.gz", gzipped(armImage()), ARM64, nil, ""},
		{"arm64 zboot", zboot(), ARM64, nil, ""},

		{"bzImage cut short", bzImage()[:60000], X86_64, ErrTruncated, "60000 of 68096 bytes"},
		{"bzImage without its last byte", bzImage()[:68095], X86_64, ErrTruncated, "cut short"},
		{"bzImage cut in its header", bzImage()[:0x230], X86_64, ErrTruncated, "cut short"},
		{"EFI section cut short", pe(kernelOf(6000, map[int]string{56: "ARM\x64"}), "\x64\xaa"), ARM64, ErrTruncated, "6000 of 8704"},
		{"EFI signature cut short", armImage()[:8600], ARM64, ErrTruncated, "8600 of 8704"},
		{"EFI section table beyond the end", with(armImage()[:300], 0x86, "\xff\xff"), ARM64, ErrTruncated, "cut short"},
		{"zboot cut short", zboot()[:5000], ARM64, ErrTruncated, "5000 of 6144"},
		{"zboot cut in its header", zboot()[:40], ARM64, ErrTruncated, "cut short"},

		{"x86 kernel as arm64", bzImage(), ARM64, fs.ErrInvalid, "for x86_64, and the release is for arm64"},
		{"arm64 kernel as x86_64", armImage(), X86_64, fs.ErrInvalid, "for arm64, and the release is for x86_64"},
		{"arm64 zboot as x86_64", zboot(), X86_64, fs.ErrInvalid, "for arm64"},
		{"arm64 Image.gz as x86_64", gzipped(armImage()), X86_64, fs.ErrInvalid, "for arm64"},
		{"arm64 Image before Linux 3.17", imageOf(0x80000, 0, 0), ARM64, fs.ErrInvalid, "older than Linux 3.17"},
		{"arm64 Image with a damaged header", imageOf(3, 1<<20, 0xa), ARM64, fs.ErrInvalid, "damaged header"},
		{"big-endian arm64 Image", imageOf(0, 1<<20, 1), ARM64, fs.ErrInvalid, "big-endian"},
		{"big-endian arm64 Image.gz", gzipped(imageOf(0, 1<<20, 1)), ARM64, fs.ErrInvalid, "big-endian"},
		{"big-endian arm64 zboot", append(zbootOf("gzip", gzipped(imageOf(0, 1<<20, 1))), make([]byte, 8704)...), ARM64, fs.ErrInvalid, "big-endian"},
		{"zboot with a text", append(zbootOf("gzip", gzipped(make([]byte, 100))), make([]byte, 8704)...), ARM64, fs.ErrInvalid, "not an arm64 kernel"},
		{"zboot with nothing", append(zbootOf("gzip", gzipped(nil)), make([]byte, 8704)...), ARM64, fs.ErrInvalid, "end after 0 bytes or are damaged"},
		{"zboot with another compression", append(zbootOf("xzkern", gzipped(armImage())), make([]byte, 8704)...), ARM64, fs.ErrInvalid, "of which only gzip and zstd are supported"},
		{"zboot without an EFI header", kernelOf(9000, map[int]string{4: "zimg"}), X86_64, fs.ErrInvalid, "without the EFI header"},
		{"x86 zboot", pe(zboot(), "\x64\x86"), X86_64, fs.ErrInvalid, "without the EFI header of arm64"},
		{"riscv zboot", pe(zboot(), "\x64\x50"), ARM64, fs.ErrInvalid, "another architecture"},
		{"bzImage.gz", gzipped(bzImage()), X86_64, fs.ErrInvalid, "gzip file with"},
		{"32-bit bzImage", with(bzImage(), 0x236, "\x00\x00"), X86_64, fs.ErrInvalid, "32-bit"},
		{"zImage", with(bzImage(), 0x211, "\x00"), X86_64, fs.ErrInvalid, "not a bzImage"},
		{"kernel of an old protocol", with(bzImage(), 0x206, "\x0b\x02"), X86_64, fs.ErrInvalid, "older"},
		{"vmlinux", []byte("\x7fELF\x02\x01\x01"), X86_64, fs.ErrInvalid, "ELF"},
		{"initramfs", []byte("070701000000"), X86_64, fs.ErrInvalid, "this is an initramfs"},
		{"zstd initramfs", []byte("\x28\xb5\x2f\xfd"), X86_64, fs.ErrInvalid, "a zstd file"},
		{"EFI program", pe(make([]byte, 9000), "\x64\x86"), X86_64, fs.ErrInvalid, "EFI"},
		{"text", []byte("the kernel\n"), X86_64, fs.ErrInvalid, "a text file"},
		{"zeros", make([]byte, 9000), X86_64, fs.ErrInvalid, "a file of an unknown kind"},
		{"damaged gzip", []byte("\x1f\x8b\xff\xff\xff\xff\xff\xff\xff\xff\xff"), ARM64, fs.ErrInvalid, "damaged"},
		{"arm64 Image.gz cut short", gzipped(armImage())[:len(gzipped(armImage()))-3], ARM64, ErrTruncated, "ends inside its compressed data"},
		{"gzip of nothing", gzipped(nil), ARM64, fs.ErrInvalid, "gzip file"},
		{"nothing", nil, X86_64, fs.ErrInvalid, "an empty file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, CheckKernel(bytes.NewReader(c.data), int64(len(c.data)), c.arch), c.want, c.says)
		})
	}
}

// checkError checks that err is want and that its text contains says.
func checkError(t *testing.T, err, want error, says string) {
	t.Helper()
	var own *Error
	if !errors.Is(err, want) || want != nil && (!errors.As(err, &own) || !strings.Contains(err.Error(), says)) {
		t.Errorf("got %v; want %v with %q", err, want, says)
	}
}

func TestTheMemoryToUnpackIsReadFromTheKernel(t *testing.T) {
	kernel := with(bzImage(), 0x260, "\x00\x00\x20\x03") // 50 MiB
	if got, want := UnpackMemory(bytes.NewReader(kernel), int64(len(kernel))), int64(50<<20-len(kernel)); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	for name, data := range map[string][]byte{"nothing": nil, "arm64 Image": armImage()} {
		if got := UnpackMemory(bytes.NewReader(data), int64(len(data))); got != 0 {
			t.Errorf("%s: got %d, want 0", name, got)
		}
	}
}

func TestAReadErrorIsNotReportedAsAnotherKindOfFile(t *testing.T) {
	err := CheckKernel(bytes.NewReader(nil), 10000, X86_64)
	if !errors.Is(err, io.EOF) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, ErrTruncated) {
		t.Errorf("got %v", err)
	}
}

func FuzzCheckKernel(f *testing.F) {
	for _, data := range [][]byte{bzImage()[:1024], pe(bzImage(), "\x64\x86")[:4096], armImage(), zboot(), gzipped(armImage()), nil} {
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, x86 bool) {
		arch, other := X86_64, ARM64
		if !x86 {
			arch, other = other, arch
		}
		r := bytes.NewReader(data)
		if CheckKernel(r, int64(len(data)), arch) == nil && CheckKernel(r, int64(len(data)), other) == nil {
			t.Error("one file is a kernel of two architectures")
		}
	})
}
