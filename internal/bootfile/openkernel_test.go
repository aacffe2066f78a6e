package bootfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// zbootOf returns a zboot image with a payload, and four bytes after it, as the kernel's build writes them.
func zbootOf(compression string, payload []byte) []byte {
	data := zboot()
	copy(data[24:], compression+"\x00")
	little.PutUint32(data[12:], uint32(len(payload)))
	return append(data[:4096], append(payload, 0, 0, 0xab, 1)...)
}

func zstdOf(data []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return z.EncodeAll(data, nil)
}

func TestAnArm64KernelIsDecompressedForKexec(t *testing.T) {
	image := armImage()
	for _, c := range []struct {
		name       string
		file, want []byte
	}{
		{"Image", image, image},
		{"bzImage", bzImage(), bzImage()},
		{"gzip file", gzipped(image), image},
		{"zboot with gzip", zbootOf("gzip", gzipped(image)), image},
		{"zboot with zstd", zbootOf("zstd", zstdOf(image)), image},
		{"zboot with the length after its frame", zbootOf("zstd", append(zstdOf(image), 0, 0x22, 0, 0)), image},
	} {
		r, err := OpenKernel(bytes.NewReader(c.file), int64(len(c.file)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		r.Close()
	}
}

func TestAZbootKernelThatCannotBeDecompressedIsRefused(t *testing.T) {
	cut := zstdOf(bytes.Repeat(armImage(), 9))
	for name, file := range map[string][]byte{
		"another compression": zbootOf("xzkern", gzipped(armImage())),
		"not gzip":            zbootOf("gzip", []byte("text")),
		"cut short":           zbootOf("zstd", cut[:len(cut)-9]),
	} {
		r, err := OpenKernel(bytes.NewReader(file), int64(len(file)))
		if err == nil {
			_, err = io.ReadAll(r)
		} else if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
