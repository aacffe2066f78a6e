package bootfile_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

type check func(io.ReaderAt, int64) error

func kernelFor(arch string) check {
	return func(r io.ReaderAt, size int64) error { return bootfile.CheckKernel(r, size, arch) }
}

const zeros = "\x00\x00\x00\x00\x00\x00\x00\x00"

func TestFilesMustBeCompleteAndOfTheirKind(t *testing.T) {
	initramfs := bootfiletest.Initramfs("hello")
	early := append(bootfiletest.Initramfs("microcode"), make([]byte, 700)...)
	zstd, gzip := compress(t, initramfs)
	rootfs := bootfiletest.Rootfs(strings.Repeat("x", 5000))
	job := bootfiletest.Job("name")
	for _, c := range []struct {
		name  string
		check check
		data  []byte
		want  error
		says  string
	}{
		{"kernel", kernelFor("x86_64"), bootfiletest.Kernel("x86_64", "body of sixteen b"), nil, ""},
		{"kernel for arm64", kernelFor("arm64"), bootfiletest.Kernel("arm64", "body"), nil, ""},

		{"initramfs", bootfile.CheckInitramfs, initramfs, nil, ""},
		{"initramfs, padded", bootfile.CheckInitramfs, append(bytes.Clone(initramfs), make([]byte, 9000)...), nil, ""},
		{"initramfs without a trailer", bootfile.CheckInitramfs, initramfs[:len(initramfs)-124], nil, ""},
		{"two archives", bootfile.CheckInitramfs, append(bytes.Clone(initramfs), initramfs...), nil, ""},
		{"microcode, then zstd", bootfile.CheckInitramfs, append(bytes.Clone(early), zstd...), nil, ""},
		{"gzip", bootfile.CheckInitramfs, gzip, nil, ""},
		{"gzip, padded", bootfile.CheckInitramfs, append(bytes.Clone(gzip), make([]byte, 512)...), nil, ""},
		{"gzip, then zstd", bootfile.CheckInitramfs, append(bytes.Clone(gzip), zstd...), nil, ""},
		{"gzip cut short", bootfile.CheckInitramfs, gzip[:len(gzip)-1], bootfile.ErrTruncated, "ends inside its compressed data"},
		{"gzip with a damaged sum", bootfile.CheckInitramfs, append(bytes.Clone(gzip[:len(gzip)-5]), "12345"...), fs.ErrInvalid, "are damaged"},
		{"xz", bootfile.CheckInitramfs, []byte("\xfd7zXZ\x00" + zeros), nil, ""},
		{"zstd", bootfile.CheckInitramfs, zstd, nil, ""},
		{"zstd, padded", bootfile.CheckInitramfs, append(bytes.Clone(zstd), make([]byte, 512)...), nil, ""},
		{"zstd cut short", bootfile.CheckInitramfs, zstd[:len(zstd)-1], bootfile.ErrTruncated, "ends inside its compressed data"},
		{"zstd cut to its half", bootfile.CheckInitramfs, zstd[:len(zstd)/2], bootfile.ErrTruncated, "ends inside its compressed data"},
		{"zstd with a damaged sum", bootfile.CheckInitramfs, append(bytes.Clone(zstd[:len(zstd)-4]), "1234"...), fs.ErrInvalid, "are damaged"},
		{"zstd with a window of 256 MiB", bootfile.CheckInitramfs, longWindow(t), fs.ErrInvalid, "larger than the kernel accepts"},
		{"microcode, then zstd cut short", bootfile.CheckInitramfs, append(bytes.Clone(early), zstd[:len(zstd)-1]...), bootfile.ErrTruncated, "ends inside its compressed data"},
		{"lz4 legacy", bootfile.CheckInitramfs, []byte("\x02\x21\x4c\x18" + zeros), nil, ""},
		{"lzo", bootfile.CheckInitramfs, []byte("\x89LZO\x00" + zeros), nil, ""},
		{"bzip2", bootfile.CheckInitramfs, []byte("BZh9" + zeros), nil, ""},
		{"lzma", bootfile.CheckInitramfs, []byte("\x5d\x00\x00\x80" + zeros), nil, ""},
		{"initramfs cut in its data", bootfile.CheckInitramfs, initramfs[:118], bootfile.ErrTruncated, "118 of 121"},
		{"initramfs cut in a header", bootfile.CheckInitramfs, initramfs[:130], bootfile.ErrTruncated, "cut short"},
		{"initramfs with garbage inside", bootfile.CheckInitramfs, bytes.Replace(initramfs, []byte("070701"), []byte("070701zz"), 1)[:len(initramfs)], fs.ErrInvalid, "no cpio header"},
		{"text after the archive", bootfile.CheckInitramfs, append(bytes.Clone(initramfs), "hello, this is text"...), fs.ErrInvalid, "a text file"},
		{"text as initramfs", bootfile.CheckInitramfs, []byte("#!/bin/sh\n"), fs.ErrInvalid, "a text file, not an initramfs"},
		{"lz4 frame", bootfile.CheckInitramfs, []byte("\x04\x22\x4d\x18" + zeros), fs.ErrInvalid, "lz4 -l"},
		{"odc archive", bootfile.CheckInitramfs, []byte("070707" + zeros), fs.ErrInvalid, "odc"},
		{"kernel as initramfs", bootfile.CheckInitramfs, bootfiletest.Kernel("x86_64", ""), fs.ErrInvalid, "an x86 kernel"},
		{"tar as initramfs", bootfile.CheckInitramfs, append(make([]byte, 257), "ustar"+zeros...), fs.ErrInvalid, "a tar archive"},
		{"empty initramfs", bootfile.CheckInitramfs, nil, fs.ErrInvalid, "an empty file"},

		{"rootfs", bootfile.CheckRootfs, rootfs, nil, ""},
		{"rootfs, padded", bootfile.CheckRootfs, append(bytes.Clone(rootfs), make([]byte, 4096)...), nil, ""},
		{"rootfs cut short", bootfile.CheckRootfs, rootfs[:len(rootfs)-1], bootfile.ErrTruncated, "5095 of 5096"},
		{"rootfs cut in its superblock", bootfile.CheckRootfs, rootfs[:50], bootfile.ErrTruncated, "50 of 96"},
		{"squashfs 3", bootfile.CheckRootfs, append([]byte("hsqs"), make([]byte, 200)...), fs.ErrInvalid, "version 0"},
		{"ext4", bootfile.CheckRootfs, append(make([]byte, 1080), "\x53\xef"+zeros...), fs.ErrInvalid, "ext4"},
		{"erofs", bootfile.CheckRootfs, append(make([]byte, 1024), "\xe2\xe1\xf5\xe0"+zeros...), fs.ErrInvalid, "EROFS"},
		{"random bytes", bootfile.CheckRootfs, []byte{0x91, 0x03, 0xff, 0x7a, 0xee}, fs.ErrInvalid, "a file of an unknown kind"},

		{"job", bootfile.CheckJob, job, nil, ""},
		{"job without sections", bootfile.CheckJob, []byte("\x00asm\x01\x00\x00\x00"), nil, ""},
		{"job cut short", bootfile.CheckJob, job[:len(job)-1], bootfile.ErrTruncated, "cut short"},
		{"job cut in a length", bootfile.CheckJob, append(bytes.Clone(job), 0, 0x80), bootfile.ErrTruncated, "cut short"},
		{"job cut in its header", bootfile.CheckJob, job[:6], bootfile.ErrTruncated, "6 of 8"},
		{"section of an endless length", bootfile.CheckJob, append(bytes.Clone(job), "\x00\xff\xff\xff\xff\xff\xff"...), fs.ErrInvalid, "no section"},
		{"component", bootfile.CheckJob, []byte("\x00asm\x0d\x00\x01\x00"), fs.ErrInvalid, "component"},
		{"module of version 2", bootfile.CheckJob, []byte("\x00asm\x02\x00\x00\x00"), fs.ErrInvalid, "version 2"},
		{"text as job", bootfile.CheckJob, []byte("(module)\n"), fs.ErrInvalid, "a text file"},
		{"ELF as job", bootfile.CheckJob, []byte("\x7fELF" + zeros), fs.ErrInvalid, "ELF"},

		{"device tree", bootfile.CheckDTB, append([]byte("\xd0\x0d\xfe\xed\x00\x00\x00\x28"), make([]byte, 32)...), nil, ""},
		{"device tree cut short", bootfile.CheckDTB, append([]byte("\xd0\x0d\xfe\xed\x00\x00\x01\x00"), make([]byte, 32)...), bootfile.ErrTruncated, "40 of 256"},
		{"device tree cut in its header", bootfile.CheckDTB, []byte("\xd0\x0d\xfe\xed\x00\x00\x01\x00"), bootfile.ErrTruncated, "8 of 40"},
		{"source of a device tree", bootfile.CheckDTB, []byte("/dts-v1/;\n"), fs.ErrInvalid, "a text file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.check(bytes.NewReader(c.data), int64(len(c.data)))
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
		})
	}
}

// compress compresses data with zstd and with gzip.
func compress(t *testing.T, data []byte) (z, g []byte) {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(data, nil), b.Bytes()
}

// longWindow returns a zstd frame with a window that is larger than the kernel accepts.
func longWindow(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(256<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Flush(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hollow is a large file: a short head, then zeros.
type hollow []byte

func (h hollow) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(h)) {
		copy(p, h[off:])
	}
	return len(p), nil
}

func TestFilesOf4GiBAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		check check
		head  []byte
	}{
		"rootfs of 5 GiB":    {bootfile.CheckRootfs, bootfiletest.Rootfs("")},
		"initramfs of 5 GiB": {bootfile.CheckInitramfs, bootfiletest.Initramfs("x")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.check(hollow(c.head), 1<<20); err != nil {
				t.Errorf("1 MiB of it: %v", err)
			}
			if err := c.check(hollow(c.head), 5<<30); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "4 GiB") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzCheckFiles: the checks do not panic, and no file passes two of them.
func FuzzCheckFiles(f *testing.F) {
	for _, data := range [][]byte{
		bootfiletest.Initramfs("x"), append(bootfiletest.Initramfs("x"), "\x00\x00\x28\xb5\x2f\xfd"...), bootfiletest.Rootfs("x"), bootfiletest.Job("x"),
		append([]byte("\xd0\x0d\xfe\xed\x00\x00\x00\x28"), make([]byte, 32)...), bootfiletest.Kernel("x86_64", "x"), nil,
	} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		passed := 0
		for _, c := range []check{bootfile.CheckInitramfs, bootfile.CheckRootfs, bootfile.CheckJob, bootfile.CheckDTB} {
			if c(bytes.NewReader(data), int64(len(data))) == nil {
				passed++
			}
		}
		if passed > 1 {
			t.Errorf("%d checks passed", passed)
		}
	})
}
