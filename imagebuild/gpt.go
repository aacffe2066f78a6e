package imagebuild

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gpt"
)

// Layout that sgdisk writes: 128 entries of 128 bytes after the header (UEFI 2.10, chapter 5).
const (
	gptEntries   = 128
	gptEntrySize = 128
	gptTable     = gptEntries * gptEntrySize
	gptHeader    = 92
	tableEnd     = 2*sector + gptTable // end of the table; zeros from here to the first partition
)

// A span is a range of an image in bytes.
type span struct{ start, size int64 }

// A table is the partition table (GPT) of an image that WriteUSB made.
type table struct {
	guid                 string
	size                 int64 // of the image, which ends with the backup table
	esp, fallback, cache span  // fallback: a second EFI system partition, of size 0 without one
}

// readTable reads the partition table of an image, or of a device that an image was written
// to, of size bytes. It accepts only the layout of WriteUSB: no boot code, zeros before the
// first partition, two or three partitions without a gap, and an equal backup table. Anything else is
// cas.ErrCorrupt.
func readTable(r io.ReaderAt, size int64) (*table, error) {
	head := make([]byte, firstPartition)
	if n, err := r.ReadAt(head, 0); err != nil {
		return nil, badImage("no partition table in its %d bytes", n)
	}
	if err := checkMBR(head[:sector]); err != nil {
		return nil, err
	}
	h, err := readHeader(head[sector:2*sector], 1)
	if err != nil {
		return nil, err
	}
	entries := head[2*sector : tableEnd]
	if h.entriesLBA != 2 || crc32.ChecksumIEEE(entries) != h.entriesCRC {
		return nil, badImage("partition table: wrong checksum of the entries")
	}
	if !allZero(head[tableEnd:]) {
		return nil, badImage("bytes between the partition table and the first partition")
	}
	t := &table{guid: guidString(h.guid), size: (h.alternateLBA + 1) * sector}
	if t.size > size {
		return nil, badImage("truncated: %d of %d bytes", size, t.size)
	}
	if err := t.readEntries(entries); err != nil {
		return nil, err
	}
	return t, checkBackup(r, h, entries)
}

// tail returns the end of the image, which has the backup table. Between the cache and it, a larger
// device has what was there before; nothing reads that.
func (t *table) tail() span {
	start := max(t.cache.start+t.cache.size, t.size-backupTable)
	return span{start, t.size - start}
}

func badImage(format string, args ...any) error {
	return fmt.Errorf("%s; not an image that phase-image made: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// checkMBR refuses boot code and every entry except the protective entry of the GPT.
func checkMBR(mbr []byte) error {
	entries := mbr[446:510]
	switch {
	case mbr[510] != 0x55 || mbr[511] != 0xaa:
		return badImage("no partition table")
	case !allZero(mbr[:440]):
		return badImage("boot code in the first sector")
	case entries[0] != 0 || entries[4] != 0xee || binary.LittleEndian.Uint32(entries[8:]) != 1 || !allZero(entries[16:]):
		return badImage("partitions in the first sector")
	}
	return nil
}

type header struct {
	guid                     [16]byte
	alternateLBA, entriesLBA int64
	entriesCRC               uint32
}

// readHeader reads the GPT header in sector lba.
func readHeader(b []byte, lba int64) (header, error) {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	if string(b[:8]) != "EFI PART" {
		return header{}, badImage("no partition table")
	}
	sum := append([]byte{}, b[:gptHeader]...)
	clear(sum[16:20])
	if u32(b[12:]) != gptHeader || crc32.ChecksumIEEE(sum) != u32(b[16:]) {
		return header{}, badImage("partition table: wrong checksum of the header")
	}
	if u64(b[24:]) != uint64(lba) || u32(b[80:]) != gptEntries || u32(b[84:]) != gptEntrySize || !allZero(b[gptHeader:]) {
		return header{}, badImage("partition table: unexpected layout")
	}
	if u64(b[32:]) > 1<<41 || u64(b[72:]) > 1<<41 {
		return header{}, badImage("partition table: the backup is too far away for any disk")
	}
	return header{[16]byte(b[56:72]), int64(u64(b[32:])), int64(u64(b[72:])), u32(b[88:])}, nil
}

// readEntries reads the two or three partitions of WriteUSB and refuses any other.
func (t *table) readEntries(entries []byte) error {
	esp, err := readEntry(entries, 0, gpt.TypeESP, espName)
	if err != nil {
		return err
	}
	n, fallback := 1, span{esp.start + esp.size, 0}
	if second, err := readEntry(entries, 1, gpt.TypeESP, fallbackName); err == nil {
		n, fallback = 2, second
	}
	cache, err := readEntry(entries, n, gpt.TypeLinux, CacheLabel)
	if err != nil {
		return err
	}
	if !allZero(entries[(n+1)*gptEntrySize:]) {
		return badImage("a partition after %s", CacheLabel)
	}
	if esp.start != firstPartition || fallback.start != esp.start+esp.size || cache.start != fallback.start+fallback.size || cache.start+cache.size > t.size {
		return badImage("partitions: unexpected positions")
	}
	t.esp, t.fallback, t.cache = esp, fallback, cache
	return nil
}

func readEntry(entries []byte, i int, kind [16]byte, name string) (span, error) {
	b := entries[i*gptEntrySize : (i+1)*gptEntrySize]
	first, last := binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])
	if [16]byte(b[:16]) != kind || entryName(b[56:]) != name || !allZero(b[48:56]) {
		return span{}, badImage("partition %d: %.80q, want the %s", i+1, entryName(b[56:]), name)
	}
	if last > 1<<41 || first > last {
		return span{}, badImage("partition %d: too far away for any disk", i+1)
	}
	return span{int64(first) * sector, int64(last-first+1) * sector}, nil
}

func entryName(b []byte) string {
	return strings.TrimRight(string(utf16.Decode(utf16Units(b))), "\x00")
}

// utf16Units reads little-endian UTF-16.
func utf16Units(b []byte) []uint16 {
	units := make([]uint16, len(b)/2)
	_, _ = binary.Decode(b, binary.LittleEndian, units) // cannot fail: the sizes are equal
	return units
}

// checkBackup compares the backup table with the table: firmware uses the backup when the
// first table is damaged.
func checkBackup(r io.ReaderAt, h header, entries []byte) error {
	sectorOf := make([]byte, sector)
	if _, err := r.ReadAt(sectorOf, h.alternateLBA*sector); err != nil && err != io.EOF {
		return err
	}
	second, err := readHeader(sectorOf, h.alternateLBA)
	if err != nil {
		return fmt.Errorf("backup of the partition table: %w", err)
	}
	same := make([]byte, gptTable)
	if _, err := r.ReadAt(same, second.entriesLBA*sector); err != nil && err != io.EOF {
		return err
	}
	if second.guid != h.guid || second.alternateLBA != 1 || second.entriesCRC != h.entriesCRC || !bytes.Equal(same, entries) {
		return badImage("the partition table and its backup differ")
	}
	return nil
}

func guidString(g [16]byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
