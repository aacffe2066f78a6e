package diskformat

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// VHDX is the growing image of Hyper-V, with blocks of 1 MiB.
var VHDX = &Format{Name: "vhdx", block: vhdxBlock, magic: []byte("vhdxfile"), tables: vhdxTables, find: vhdxFind}

// Positions in bytes. The headers, the log, the metadata and the block allocation table each begin
// at a whole MiB.
const (
	vhdxBlock   = mib
	vhdxHeaders = 64 * kib  // two headers, each in 64 KiB
	vhdxRegions = 192 * kib // two equal region tables, each of 64 KiB
	vhdxLog     = 1 * mib
	vhdxMeta    = 2 * mib
	vhdxTable   = 3 * mib
	vhdxItems   = 64 * kib                       // offset of the first item in the metadata
	vhdxChunk   = (1 << 23) * sector / vhdxBlock // blocks between two entries of sector bitmaps

	vhdxZero    = 2 // state of a block that reads as zeros
	vhdxPresent = 6 // state of a block that is in the file
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// vhdxTables returns the identifier, both headers and region tables, an empty log, the metadata
// and the block allocation table (BAT).
func vhdxTables(d *disk) []byte {
	bat := roundUp(8*vhdxEntry(d.blocks()), mib)
	b := make([]byte, vhdxTable+bat)
	copy(b, "vhdxfile")
	copy(b[8:], utf16Bytes("phase-image"))
	for i := range int64(2) {
		d.vhdxHeader(b[vhdxHeaders+i*64*kib:][:4*kib], uint64(i))
		vhdxRegionTable(b[vhdxRegions+i*64*kib:][:64*kib], uint32(bat))
	}
	d.vhdxMetadata(b[vhdxMeta:])
	table := b[vhdxTable:]
	for n := range d.blocks() {
		binary.LittleEndian.PutUint64(table[8*vhdxEntry(n):], vhdxZero)
	}
	for k, n := range d.used {
		binary.LittleEndian.PutUint64(table[8*vhdxEntry(n):], uint64(len(b)+k*vhdxBlock)|vhdxPresent)
	}
	return b
}

// vhdxEntry returns the number of the BAT entry of block n. An entry for a sector bitmap, which
// only a disk with a parent has, follows each chunk of blocks.
func vhdxEntry(n int64) int64 { return n + n/vhdxChunk }

func (d *disk) vhdxHeader(b []byte, sequence uint64) {
	u16, u32, u64 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	copy(b, "head")
	u64(b[8:], sequence)
	file, data := d.id.guid("file"), d.id.guid("data")
	copy(b[16:], file[:])
	copy(b[32:], data[:])
	u16(b[66:], 1)       // version
	u32(b[68:], mib)     // length of the log, which is empty: its GUID is zero
	u64(b[72:], vhdxLog) // its offset
	u32(b[4:], crc32.Checksum(b, castagnoli))
}

func vhdxRegionTable(b []byte, bat uint32) {
	copy(b, "regi")
	binary.LittleEndian.PutUint32(b[8:], 2)
	entry := func(i int, id string, at uint64, length uint32) {
		e := b[16+32*i:]
		copy(e, GUIDBytes(id))
		binary.LittleEndian.PutUint64(e[16:], at)
		binary.LittleEndian.PutUint32(e[24:], length)
		binary.LittleEndian.PutUint32(e[28:], 1) // a reader must know it
	}
	entry(0, "2dc27766-f623-4200-9d64-115e9bfd4a08", vhdxTable, bat)
	entry(1, "8b7ca206-4790-4b9a-b8fe-575f050f886e", vhdxMeta, mib)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
}

// vhdxMetadata writes the five items that every disk has.
func (d *disk) vhdxMetadata(b []byte) {
	const ofDisk, required = 2, 4
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	page83 := d.id.guid("disk")
	items := []struct {
		id    string
		flags uint32
		value []byte
	}{
		{"caa16737-fa36-4d43-b3b6-33f0aa44e76b", required, u32(u32(nil, vhdxBlock), 0)},       // block size; no parent
		{"2fa54224-cd1b-4876-b211-5dbed83bf4b8", required | ofDisk, u64(nil, uint64(d.size))}, // size of the disk
		{"beca12ab-b2e6-4523-93ef-c309e000c746", required | ofDisk, page83[:]},                // identifier of the disk
		{"8141bf1d-a96f-4709-ba47-f233a8faab5f", required | ofDisk, u32(nil, sector)},         // logical sector
		{"cda348c7-445d-4471-9cc9-e9885251c556", required | ofDisk, u32(nil, sector)},         // physical sector
	}
	copy(b, "metadata")
	binary.LittleEndian.PutUint16(b[10:], uint16(len(items)))
	at := uint32(vhdxItems)
	for i, item := range items {
		e := b[32+32*i:]
		copy(e, GUIDBytes(item.id))
		binary.LittleEndian.PutUint32(e[16:], at)
		binary.LittleEndian.PutUint32(e[20:], uint32(len(item.value)))
		binary.LittleEndian.PutUint32(e[24:], item.flags)
		copy(b[at:], item.value)
		at += uint32(len(item.value))
	}
}

// GUIDBytes returns a GUID as Microsoft and UEFI store it: the first three fields are little-endian. It
// panics for another text.
func GUIDBytes(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		panic(err) // cannot happen: the texts are constants, or ID.GUID made them
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5], b[6], b[7] = b[5], b[4], b[7], b[6]
	return b
}

func utf16Bytes(s string) (b []byte) {
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

func vhdxFind(r io.ReaderAt) (size int64, used []int64, err error) {
	const sizeAt = vhdxMeta + vhdxItems + 8
	value := make([]byte, 8)
	if err := readAll(r, value, sizeAt); err != nil {
		return 0, nil, err
	}
	size = int64(binary.LittleEndian.Uint64(value) & (1<<62 - 1))
	entries, err := findEntries(r, vhdxTable, vhdxEntry(size/vhdxBlock), func(e []byte) bool { return e[0] == vhdxPresent }, 8)
	for _, e := range entries {
		used = append(used, e-e/(vhdxChunk+1))
	}
	return size, used, err
}
