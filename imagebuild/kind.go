package imagebuild

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

// Kinds of images that Verify reads, beside the names of diskformat.Formats, which WriteDisk makes.
const (
	KindDisk      = "disk"      // made by WriteUSB, or a device that such an image was written to
	KindESP       = "esp"       // made by WriteESP
	KindInitramfs = "initramfs" // made by WriteInitramfs
	KindUKI       = "uki"       // made by WriteUKI
	KindISO       = "iso"       // made by WriteISO, or a device that such an image was written to
)

// openImage opens a regular file or a block device, and returns its size in bytes.
func openImage(name string) (*os.File, int64, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would block
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("image %s: %w; check the path", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("image: %w", err)
	}
	size, err := sizeOf(f)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("image %s: %w", name, err)
	}
	return f, size, nil
}

// sizeOf returns the size of a regular file or a block device in bytes.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	mode := info.Mode()
	switch {
	case mode.IsDir():
		return 0, optionsf("is a directory; name a file")
	case !mode.IsRegular() && mode.Type() != fs.ModeDevice:
		return 0, optionsf("neither a regular file nor a block device; name a file")
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size == 0 {
		err = fmt.Errorf("the file is empty; make it again: %w", cas.ErrCorrupt)
	}
	return size, err
}

// detectKind detects the kind of the image from its first bytes and returns its reader.
func (c *Contents) detectKind(r io.ReaderAt) (func(context.Context, *Builder, *os.File) error, error) {
	head := make([]byte, 2*sector)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		if looksLikeDisk(head) || looksLikeCD(r) {
			return nil, badArchive("firmware would read it as a disk and could boot something else")
		}
		c.Kind = KindInitramfs
		return c.readInitramfsFile, nil
	case bytes.HasPrefix(head, []byte("MZ")):
		if looksLikeDisk(head) || looksLikeCD(r) {
			return nil, badPE("firmware would read it as a disk and could boot something else")
		}
		c.Kind = KindUKI
		return c.readUKIFile, nil
	case isFAT32(head):
		c.Kind = KindESP
		return c.readESPFile, nil
	case looksLikeCD(r):
		c.Kind = KindISO
		return c.readISO, nil
	}
	if format := diskformat.Detect(head); format != nil {
		c.Kind = format.Name
		return c.readVirtualDisk(format), nil
	}
	c.Kind = KindDisk
	return c.readDisk, nil
}

// looksLikeDisk reports whether firmware would find a partition table or a FAT filesystem in the
// first two sectors, although the file begins as another kind.
func looksLikeDisk(head []byte) bool {
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	table, partitions := u16(head[510:]) == 0xaa55, 0
	for b := head[446:510]; len(b) > 0; b = b[16:] {
		switch {
		case b[4] == 0 && allZero(b):
		case b[0]&0x7f == 0 && b[4] != 0 && u32(b[12:]) != 0:
			partitions++
		default:
			table = false
		}
	}
	fat := (u16(head[11:]) == sector || u16(head[11:]) == 8*sector) && head[13]&(head[13]-1) == 0 && u16(head[14:]) != 0 &&
		(head[16] == 1 || head[16] == 2) && (head[21] == 0xf0 || head[21] > 0xf7)
	return table && partitions > 0 || fat
}

// looksLikeCD reports whether firmware would find a volume descriptor of a CD (ECMA-119).
func looksLikeCD(r io.ReaderAt) bool {
	const at, magic = 16*2048 + 1, "CD001"
	b := make([]byte, len(magic))
	_, err := r.ReadAt(b, at)
	return err == nil && string(b) == magic
}
