package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

const (
	// Sector is the size of a sector in bytes.
	Sector = 512
	mib    = 1 << 20

	entries   = 128
	entrySize = 128
	tableSize = entries * entrySize
	tableLBAs = tableSize / Sector
	firstLBA  = 2                    // of the entries after the header
	spareLBA  = firstLBA + tableLBAs // of the entries while those at firstLBA are written
	headSize  = (spareLBA + tableLBAs) * Sector
	hdrSize   = 92
	endOfDisk = mib // bytes that stay free at the end of the disk, as phase-image has them
)

// ErrLayout is the error for a table that is damaged or that another program made.
var ErrLayout = errors.New("not a partition table that phase-image made")

// A Disk is a whole disk.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// A Partition is a range of a disk in bytes.
type Partition struct{ Start, Size int64 }

// A Plan is what Grow would change.
type Plan struct {
	Was, Is Partition
	Needed  bool // Grow has something to write

	last    int64 // last sector of the disk
	head    []byte
	header  []byte // the first one, as it is
	entries []byte // as they are
	grown   []byte // entries after the change
}

// Look reads the table of a disk of size bytes and plans the growth of partition number (from 1). The error
// wraps ErrLayout for a table that must not be changed. It writes nothing.
func Look(d io.ReaderAt, size int64, number int) (*Plan, error) {
	p := &Plan{last: size/Sector - 1, head: make([]byte, headSize)}
	if _, err := d.ReadAt(p.head, 0); err != nil {
		return nil, err
	}
	p.header = p.head[Sector : 2*Sector]
	at, err := entriesAt(p.header)
	if err != nil {
		return nil, err
	}
	p.entries = p.head[at*Sector : at*Sector+tableSize]
	if err := p.check(number); err != nil {
		return nil, err
	}
	p.plan(number)
	return p, p.checkSpare()
}

func layoutf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrLayout)
}

// entriesAt checks the header in sector 1 and returns the sector of its entries.
func entriesAt(h []byte) (int64, error) {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	switch at := u64(h[72:]); {
	case string(h[:8]) != "EFI PART", u32(h[12:]) != hdrSize, u32(h[16:]) != headerSum(h):
		return 0, layoutf("no valid header")
	case u64(h[24:]) != 1, u32(h[80:]) != entries, u32(h[84:]) != entrySize, at != firstLBA && at != spareLBA:
		return 0, layoutf("unexpected header")
	default:
		return int64(at), nil
	}
}

func headerSum(h []byte) uint32 {
	b := slices.Clone(h[:hdrSize])
	clear(b[16:20])
	return crc32.ChecksumIEEE(b)
}

func (p *Plan) check(number int) error {
	u64 := binary.LittleEndian.Uint64
	if crc32.ChecksumIEEE(p.entries) != binary.LittleEndian.Uint32(p.header[88:]) {
		return layoutf("wrong checksum of the entries")
	}
	if alternate := u64(p.header[32:]); alternate > uint64(p.last) {
		return layoutf("the disk ends before its partition table does")
	}
	if number < 1 || number > entries {
		return layoutf("no partition %d", number)
	}
	if mbr := p.head[446:510]; mbr[4] != 0xee || binary.LittleEndian.Uint32(mbr[8:]) != 1 || !allZero(mbr[16:]) {
		return layoutf("partitions in the first sector")
	}
	first, last := span(p.entries, number)
	if first == 0 || last < first || last >= uint64(p.last-tableLBAs) {
		return layoutf("partition %d is outside of the disk", number)
	}
	for n := 1; n <= entries; n++ {
		begin, end := span(p.entries, n)
		entry := p.entries[(n-1)*entrySize : n*entrySize]
		switch {
		case allZero(entry):
		case n != number && [16]byte(entry) != TypeESP, n == number && ([16]byte(entry) != TypeLinux || !bytes.Equal(entry[nameAt:], cacheName())):
			return layoutf("partition %d is neither an EFI system partition nor the cache", n)
		case begin < spareLBA+tableLBAs:
			return layoutf("partition %d begins too early", n)
		case n != number && end >= first:
			return layoutf("partition %d is not the last one", number)
		}
	}
	return nil
}

// Types of the partitions that phase-image makes, as a table has them: EFI system partition, Linux filesystem data.
var (
	TypeESP   = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	TypeLinux = [16]byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// nameAt is the offset of the name in an entry.
const nameAt = 56

// cacheName returns the name of the cache partition as an entry has it, in UTF-16.
func cacheName() []byte {
	b := make([]byte, entrySize-nameAt)
	for i, c := range []byte("PHASE-CACHE") {
		b[2*i] = c
	}
	return b
}

// span returns the first and the last sector of a partition.
func span(table []byte, number int) (first, last uint64) {
	b := table[(number-1)*entrySize:]
	return binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])
}

func (p *Plan) plan(number int) {
	first, last := span(p.entries, number)
	start, size := int64(first)*Sector, int64(last-first+1)*Sector
	p.Was, p.Is = Partition{start, size}, Partition{start, size}
	if end := ((p.last+1)*Sector - endOfDisk) / mib * mib; end-start > size {
		p.Is.Size = end - start
	}
	p.grown = slices.Clone(p.entries)
	binary.LittleEndian.PutUint64(p.grown[(number-1)*entrySize+40:], uint64((p.Is.Start+p.Is.Size)/Sector-1))
	moved := binary.LittleEndian.Uint64(p.header[32:]) != uint64(p.last)
	p.Needed = moved || p.Is != p.Was || !bytes.Equal(p.finalHead(), p.head)
}

// checkSpare refuses bytes after the table that are not of an interrupted Grow.
func (p *Plan) checkSpare() error {
	for at := 0; at < tableSize; at += Sector {
		is := p.head[spareLBA*Sector+at:][:Sector]
		if !allZero(is) && !bytes.Equal(is, p.entries[at:at+Sector]) && !bytes.Equal(is, p.grown[at:at+Sector]) {
			return layoutf("bytes after the partition table")
		}
	}
	return nil
}

// finalHead returns the begin of the disk after Grow.
func (p *Plan) finalHead() []byte {
	head := make([]byte, headSize)
	copy(head, p.mbr())
	copy(head[Sector:], p.newHeader(1, p.last, firstLBA, spareLBA))
	copy(head[firstLBA*Sector:], p.grown)
	return head
}

// mbr returns the first sector with the size of the disk in its protective entry.
func (p *Plan) mbr() []byte {
	mbr := slices.Clone(p.head[:Sector])
	entry := mbr[446:462]
	copy(entry[5:8], chs(p.last))
	binary.LittleEndian.PutUint32(entry[12:], uint32(min(p.last, 1<<32-1)))
	return mbr
}

// chs returns the address of a sector in cylinder, head and sector (UEFI 2.10, 5.2.3).
func chs(lba int64) []byte {
	c, h, s := lba/(255*63), lba/63%255, lba%63+1
	if c > 1023 {
		return []byte{0xff, 0xff, 0xff}
	}
	return []byte{byte(h), byte(s | c>>2&0xc0), byte(c)}
}

// newHeader returns a header for the sector lba, with its entries at a sector. The first sector that
// partitions may use is usable.
func (p *Plan) newHeader(lba, alternate, at, usable int64) []byte {
	h, u64 := slices.Clone(p.header), binary.LittleEndian.PutUint64
	u64(h[24:], uint64(lba))
	u64(h[32:], uint64(alternate))
	u64(h[40:], uint64(usable))
	u64(h[48:], uint64(p.last-tableLBAs-1))
	u64(h[72:], uint64(at))
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(p.grown))
	binary.LittleEndian.PutUint32(h[16:], headerSum(h))
	return h
}

// Grow changes the table of a disk of size bytes as Look says.
//
// The new backup comes first; it is used only if the first table is damaged. Then the new entries are
// written to free sectors, and one write of the header replaces the old entries by them. The same
// happens again to bring the entries to their usual place.
func Grow(d Disk, size int64, number int) (*Plan, error) {
	p, err := Look(d, size, number)
	if err != nil || !p.Needed {
		return p, err
	}
	if at, _ := entriesAt(p.header); at == spareLBA && !bytes.Equal(p.entries, p.grown) {
		return nil, layoutf("an interrupted change of the table on a disk of another size") // a copy of such a stick
	}
	type write struct {
		lba  int64
		data []byte
	}
	list := []write{
		{p.last - tableLBAs, p.grown},
		{p.last, p.newHeader(p.last, 1, p.last-tableLBAs, spareLBA)},
		{spareLBA, p.grown},
		{1, p.newHeader(1, p.last, spareLBA, spareLBA+tableLBAs)},
		{firstLBA, p.grown},
		{1, p.newHeader(1, p.last, firstLBA, spareLBA)},
		{spareLBA, make([]byte, tableSize)},
		{0, p.mbr()},
	}
	for _, w := range list {
		if _, err := d.WriteAt(w.data, w.lba*Sector); err != nil {
			return nil, fmt.Errorf("partition table: %w", err)
		}
		if err := d.Sync(); err != nil {
			return nil, fmt.Errorf("partition table: %w", err)
		}
	}
	return p, nil
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
