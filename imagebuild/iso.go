package imagebuild

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/gpt"
)

// An isoDisc is what an ISO image depends on, beside the EFI system partition in it. The image has
// the partition at firstPartition, after the descriptors of the CD and the partition table, and
// ends with the backup of the table.
//
// A CD starts from the partition as its El Torito boot image (El Torito 1.0; UEFI 2.10, 13.3.2). A
// USB stick starts from it by the partition table. Both have the same bytes.
type isoDisc struct {
	esp  int64 // bytes
	id   diskformat.ID
	date time.Time
}

// Sectors of a CD (ECMA-119, 4th edition).
const (
	cdSector   = 2048
	cdPrimary  = 16 // descriptors begin here
	cdBoot     = 17
	cdEnd      = 18
	cdCatalog  = 19
	cdPathsLSB = 20 // path table, little-endian
	cdPathsMSB = 21 // and big-endian
	cdRoot     = 22
	cdReadme   = 23
)

// WriteISO builds an ISO image for CDs, virtual media and USB sticks, and writes it to out. It has
// no cache partition.
func (b *Builder) WriteISO(ctx context.Context, m Media, out string) (*MediaInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if err := requireTools("mkfs.vfat", "mmd", "zstd"); err != nil {
		return nil, err
	}
	tree, err := b.espTree(ctx, m)
	if err != nil {
		return nil, err
	}
	disc := isoDisc{esp: tree.size(), date: tree.fatDate()}
	err = atomicfile.Build(out, 0o644, func(image string) error { return b.makeISO(ctx, tree, disc, image) })
	if err != nil {
		return nil, err
	}
	info := tree.info
	info.Out, info.Size, info.Format = out, disc.size(), KindISO
	return &info, nil
}

func (b *Builder) makeISO(ctx context.Context, t *espTree, d isoDisc, image string) error {
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	esp := filepath.Join(tmp, "esp")
	if err := os.WriteFile(esp, nil, 0o644); err != nil {
		return file.FullDisk(err)
	}
	if err := b.makeESP(ctx, t, esp); err != nil {
		return err
	}
	if d.id, err = partitionID(ctx, esp, 0, d.esp); err != nil {
		return err
	}
	if err := os.Truncate(image, d.size()); err != nil {
		return file.FullDisk(err)
	}
	if err := copySparse(image, firstPartition, esp, 0, d.esp); err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for at, part := range map[int64][]byte{0: d.head(), firstPartition + d.esp: d.tail()} {
		if _, err := f.WriteAt(part, at); err != nil {
			return file.FullDisk(err)
		}
	}
	return f.Close()
}

// partitionID returns the digest of a range of a file, from which the identifiers are derived.
func partitionID(ctx context.Context, image string, start, size int64) (id diskformat.ID, err error) {
	f, err := os.Open(image)
	if err != nil {
		return id, err
	}
	defer f.Close()
	sum, err := sumRange(ctx, f, start, size)
	if err == nil {
		_, err = hex.Decode(id[:], []byte(sum))
	}
	return id, err
}

// size returns the size of the image in bytes.
func (d isoDisc) size() int64 { return firstPartition + d.esp + backupTable }

// head returns everything before the partition.
func (d isoDisc) head() []byte {
	b := make([]byte, firstPartition)
	last := d.size()/sector - 1
	copy(b[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00") // the protective entry of the GPT
	binary.LittleEndian.PutUint32(b[446+12:], uint32(last))
	b[510], b[511] = 0x55, 0xaa
	d.gptHeader(b[sector:], 1, last, 2)
	copy(b[2*sector:], d.gptEntries())
	at := func(n int) []byte { return b[n*cdSector : (n+1)*cdSector] }
	d.primaryDescriptor(at(cdPrimary))
	copy(at(cdBoot), "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(at(cdBoot)[71:], cdCatalog)
	copy(at(cdEnd), "\xffCD001\x01")
	bootCatalog(at(cdCatalog))
	copy(at(cdPathsLSB), "\x01\x00\x16\x00\x00\x00\x01\x00") // the root folder, at sector cdRoot
	copy(at(cdPathsMSB), "\x01\x00\x00\x00\x00\x16\x00\x01")
	readme := dataFile("iso/README.TXT")
	root := append(d.record("\x00", cdRoot, cdSector, true), d.record("\x01", cdRoot, cdSector, true)...)
	copy(at(cdRoot), append(root, d.record("README.TXT;1", cdReadme, len(readme), false)...))
	copy(at(cdReadme), readme)
	return b
}

// tail returns everything after the partition: the backup of the partition table.
func (d isoDisc) tail() []byte {
	b := make([]byte, backupTable)
	last := d.size()/sector - 1
	table := b[backupTable-sector-gptTable:]
	copy(table, d.gptEntries())
	d.gptHeader(table[gptTable:], last, 1, last-gptTable/sector)
	return b
}

// gptHeader writes the header in sector lba (UEFI 2.10, 5.3.2).
func (d isoDisc) gptHeader(b []byte, lba, other, entries int64) {
	u32, u64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	copy(b, "EFI PART\x00\x00\x01\x00")
	u32(b[12:], gptHeader)
	u64(b[24:], uint64(lba))
	u64(b[32:], uint64(other))
	u64(b[40:], tableEnd/sector)                  // first usable sector
	u64(b[48:], uint64(d.size()-tableEnd)/sector) // last one
	copy(b[56:], diskformat.GUIDBytes(d.id.GUID("disk")))
	u64(b[72:], uint64(entries))
	u32(b[80:], gptEntries)
	u32(b[84:], gptEntrySize)
	u32(b[88:], crc32.ChecksumIEEE(d.gptEntries()))
	u32(b[16:], crc32.ChecksumIEEE(b[:gptHeader]))
}

func (d isoDisc) gptEntries() []byte {
	b := make([]byte, gptTable)
	copy(b, gpt.TypeESP[:])
	copy(b[16:], diskformat.GUIDBytes(d.id.GUID("esp")))
	binary.LittleEndian.PutUint64(b[32:], firstPartition/sector)
	binary.LittleEndian.PutUint64(b[40:], uint64((firstPartition+d.esp)/sector-1))
	for i, unit := range utf16.Encode([]rune("EFI system partition")) {
		binary.LittleEndian.PutUint16(b[56+2*i:], unit)
	}
	return b
}

// primaryDescriptor writes the descriptor of the CD's file system.
func (d isoDisc) primaryDescriptor(b []byte) {
	copy(b, "\x01CD001\x01")
	text := func(from, to int, s string) { copy(b[from:to], s+strings.Repeat(" ", to-from-len(s))) }
	text(8, 40, "")            // system
	text(40, 72, "PHASE_BOOT") // volume
	both32(b[80:], d.size()/cdSector)
	both16(b[120:], 1) // discs of the set
	both16(b[124:], 1) // number of this disc
	both16(b[128:], cdSector)
	both32(b[132:], 10) // bytes of a path table
	binary.LittleEndian.PutUint32(b[140:], cdPathsLSB)
	binary.BigEndian.PutUint32(b[148:], cdPathsMSB)
	copy(b[156:], d.record("\x00", cdRoot, cdSector, true))
	text(190, 813, "")                        // set, publisher, preparer, application and three file names
	for _, at := range []int{813, 830, 864} { // created, changed, valid from
		copy(b[at:], d.date.Format(isoDate))
	}
	copy(b[847:], strings.Repeat("0", 16)) // valid for ever
	b[881] = 1                             // version of the structure
}

// isoDate is a date of a descriptor, with hundredths of a second. The zone, UTC, is a zero byte.
const isoDate = "2006010215040500"

// record returns an entry of a folder.
func (d isoDisc) record(name string, at, size int, dir bool) []byte {
	b := make([]byte, (33+len(name)+1)/2*2)
	b[0] = byte(len(b))
	both32(b[2:], int64(at))
	both32(b[10:], int64(size))
	copy(b[18:], []byte{byte(d.date.Year() - 1900), byte(d.date.Month()), byte(d.date.Day()), byte(d.date.Hour()), byte(d.date.Minute()), byte(d.date.Second())})
	if dir {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

// bootCatalog writes the two entries of El Torito's catalog: one boot image, for UEFI, without
// emulation. A length of 0 sectors means: until the end of the medium. The field has 16 bits, and
// the partition is larger.
func bootCatalog(b []byte) {
	const platformEFI = 0xef
	b[0], b[1] = 1, platformEFI
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[28:], -sum)
	b[32] = 0x88 // bootable
	binary.LittleEndian.PutUint32(b[40:], firstPartition/cdSector)
}

// both16 and both32 write a number in both byte orders.
func both16(b []byte, n int64) {
	binary.LittleEndian.PutUint16(b, uint16(n))
	binary.BigEndian.PutUint16(b[2:], uint16(n))
}

func both32(b []byte, n int64) {
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.BigEndian.PutUint32(b[4:], uint32(n))
}
