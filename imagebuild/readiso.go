package imagebuild

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxISOPartition bounds the EFI system partition of an ISO image in bytes.
const maxISOPartition = 8 << 30

// readISO reads an image of WriteISO. It reads the EFI system partition, makes everything around it
// again, and refuses any byte that differs: firmware could start another partition, boot image or
// file.
func (c *Contents) readISO(ctx context.Context, b *Builder, f *os.File) error {
	d, err := readISODisc(f)
	if err != nil {
		return err
	}
	if d.size() > c.Size {
		return badImage("truncated: %d of %d bytes", c.Size, d.size())
	}
	c.Size, c.TrailingBytes = d.size(), c.Size-d.size()
	esp := span{firstPartition, d.esp}
	if err := c.readESP(io.NewSectionReader(f, esp.start, esp.size), esp.size); err != nil {
		return err
	}
	if c.BootSum, err = sumRange(ctx, f, esp.start, esp.size); err != nil {
		return err
	}
	if d.id, err = partitionID(ctx, c.Image, esp.start, esp.size); err != nil {
		return err
	}
	if err := errors.Join(compareAt(f, 0, d.head()), compareAt(f, esp.start+esp.size, d.tail())); err != nil {
		return err
	}
	c.Disk = d.id.GUID("disk")
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	table, partition := filepath.Join(tmp, "table"), filepath.Join(tmp, "esp")
	if err := errors.Join(extract(partition, esp.size, c.Image, esp), extract(table, c.Size, c.Image, span{0, firstPartition}, span{esp.start + esp.size, backupTable})); err != nil {
		return err
	}
	return c.runCheckers(ctx, command("sgdisk", "-v", table), command("fsck.fat", "-n", partition))
}

// readISODisc reads from the CD's descriptor what the image depends on.
func readISODisc(r io.ReaderAt) (d isoDisc, err error) {
	b := make([]byte, cdSector)
	if err := readAll(r, b, cdPrimary*cdSector); err != nil {
		return d, badImage("truncated")
	}
	d.esp = int64(binary.LittleEndian.Uint32(b[80:]))*cdSector - firstPartition - backupTable
	if d.esp < minESP || d.esp > maxISOPartition || d.esp%mib != 0 {
		return d, badImage("the CD has %d sectors", binary.LittleEndian.Uint32(b[80:]))
	}
	if d.date, err = time.ParseInLocation(isoDate, string(b[813:829]), time.UTC); err != nil {
		return d, badImage("the CD has the date %.20q", b[813:829])
	}
	return d, nil
}

// compareAt compares a range of an image with what it must be.
func compareAt(r io.ReaderAt, at int64, want []byte) error {
	have := make([]byte, len(want))
	if err := readAll(r, have, at); err != nil {
		return err
	}
	for i := 0; i < len(have); i += sector {
		if !bytes.Equal(have[i:i+sector], want[i:i+sector]) {
			return badImage("the sector at byte %d, outside the EFI system partition, differs", at+int64(i))
		}
	}
	return nil
}
