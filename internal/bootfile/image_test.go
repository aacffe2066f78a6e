package bootfile

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
)

// imageOf returns an arm64 Image with three fields of its header.
func imageOf(textOffset, size, flags uint64) []byte {
	data := kernelOf(4096, map[int]string{56: "ARM\x64"})
	little.PutUint64(data[8:], textOffset)
	little.PutUint64(data[16:], size)
	little.PutUint64(data[24:], flags)
	return data
}

func TestTheHeaderOfAnArm64Image(t *testing.T) {
	const debian = 0x1ab0000 // 6.1.0-57-cloud-arm64, with flags 0xa
	for name, row := range map[string]struct {
		data []byte
		want Image
		err  error
	}{
		"of Debian":            {imageOf(0, debian, 0xa), Image{0, debian}, nil},
		"with an offset":       {imageOf(0x80000, 1<<20, 2), Image{0x80000, 1 << 20}, nil},
		"before Linux 3.17":    {imageOf(0x80000, 0, 0), Image{}, fs.ErrInvalid},
		"big-endian":           {imageOf(0, debian, 0xb), Image{}, fs.ErrInvalid},
		"offset over 2 MiB":    {imageOf(2<<20, debian, 0xa), Image{}, fs.ErrInvalid},
		"offset in a page":     {imageOf(0x80001, debian, 0xa), Image{}, fs.ErrInvalid},
		"length of 64 bits":    {imageOf(0, 1<<64-1, 0xa), Image{}, fs.ErrInvalid},
		"x86 kernel":           {bzImage(), Image{}, fs.ErrInvalid},
		"zboot":                {zboot(), Image{}, fs.ErrInvalid},
		"cut in its header":    {imageOf(0, debian, 0xa)[:60], Image{}, ErrTruncated},
		"cut before its magic": {imageOf(0, debian, 0xa)[:20], Image{}, fs.ErrInvalid},
	} {
		got, err := ReadImage(bytes.NewReader(row.data), int64(len(row.data)))
		if got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAnArm64ImageNeedsTheMemoryThatItClears(t *testing.T) {
	for size, want := range map[uint64]int64{1 << 20: 1<<20 - 4096, 4096: 0, 1: 0, 0: 0} {
		data := imageOf(0, size, 0xa)
		if got := UnpackMemory(bytes.NewReader(data), int64(len(data))); got != want {
			t.Errorf("%d: %d, want %d", size, got, want)
		}
	}
}
