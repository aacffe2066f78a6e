package imagebuild

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gpt"
)

const gptSize = 4 * mib

// A gptSpec is the input of a partition table for tests.
type gptSpec struct {
	count      uint32 // of entries in the header
	partitions []gptPartition
}

type gptPartition struct {
	kind        [16]byte
	first, last uint64 // sectors
	name        string
}

func validGPT() gptSpec {
	const perMiB = mib / sector
	return gptSpec{gptEntries, []gptPartition{
		{gpt.TypeESP, perMiB, 2*perMiB - 1, "EFI system partition"},
		{gpt.TypeLinux, 2 * perMiB, 3*perMiB - 1, CacheLabel},
	}}
}

// withFallback returns the table of an image with a second EFI system partition of half a MiB.
func withFallback() gptSpec {
	const half = mib / sector / 2
	s := validGPT()
	s.partitions = []gptPartition{s.partitions[0], {gpt.TypeESP, 4 * half, 5*half - 1, fallbackName}, s.partitions[1]}
	s.partitions[2].first = 5 * half
	return s
}

// image returns a disk of gptSize bytes with this table and its backup (UEFI 2.10, 5.3).
func (s gptSpec) image() []byte {
	const last = gptSize/sector - 1
	disk := make([]byte, gptSize)
	entries := make([]byte, gptTable)
	for i, p := range s.partitions {
		b := entries[i*gptEntrySize:]
		copy(b, p.kind[:])
		b[16] = byte(i + 1) // any unique GUID
		binary.LittleEndian.PutUint64(b[32:], p.first)
		binary.LittleEndian.PutUint64(b[40:], p.last)
		for k, unit := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(b[56+2*k:], unit)
		}
	}
	disk[446+4] = 0xee
	binary.LittleEndian.PutUint32(disk[446+8:], 1)
	disk[510], disk[511] = 0x55, 0xaa
	s.header(disk[sector:], entries, 1, last, 2)
	copy(disk[2*sector:], entries)
	s.header(disk[last*sector:], entries, last, 1, last-gptTable/sector)
	copy(disk[(last-gptTable/sector)*sector:], entries)
	return disk
}

func (s gptSpec) header(b, entries []byte, lba, alternate, entriesLBA uint64) {
	u32, u64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	copy(b, "EFI PART\x00\x00\x01\x00")
	u32(b[12:], gptHeader)
	u64(b[24:], lba)
	u64(b[32:], alternate)
	for i := range 16 {
		b[56+i] = byte(i)
	}
	u64(b[72:], entriesLBA)
	u32(b[80:], s.count)
	u32(b[84:], gptEntrySize)
	u32(b[88:], crc32.ChecksumIEEE(entries))
	u32(b[16:], crc32.ChecksumIEEE(b[:gptHeader]))
}

func TestFormatGPTIsRead(t *testing.T) {
	got, err := readTable(bytes.NewReader(validGPT().image()), gptSize)
	if err != nil {
		t.Fatal(err)
	}
	want := table{"03020100-0504-0706-0809-0a0b0c0d0e0f", gptSize, span{mib, mib}, span{2 * mib, 0}, span{2 * mib, mib}}
	if *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	if got, err = readTable(bytes.NewReader(withFallback().image()), gptSize); err != nil {
		t.Fatal(err)
	}
	want.fallback, want.cache = span{2 * mib, mib / 2}, span{2*mib + mib/2, mib / 2}
	if *got != want {
		t.Errorf("with a fallback: got %+v, want %+v", *got, want)
	}
}

func TestFormatGPTOfAnotherLayoutIsCorrupt(t *testing.T) {
	spec := func(change func(*gptSpec)) []byte {
		s := validGPT()
		change(&s)
		return s.image()
	}
	fallback := func(change func(*gptSpec)) []byte {
		s := withFallback()
		change(&s)
		return s.image()
	}
	disk := func(change func(b []byte)) []byte {
		b := validGPT().image()
		change(b)
		return b
	}
	for _, c := range []struct {
		name  string
		image []byte
		words string
	}{
		{"smaller than the table", make([]byte, 2*sector), "no partition table in its 1024 bytes"},
		{"no boot signature", disk(func(b []byte) { b[510] = 0 }), "no partition table"},
		{"boot code", disk(func(b []byte) { b[3] = 1 }), "boot code in the first sector"},
		{"partition in the MBR", disk(func(b []byte) { b[446+16+4] = 0x0c }), "partitions in the first sector"},
		{"no GPT", disk(func(b []byte) { b[sector] = 0 }), "no partition table"},
		{"changed header", disk(func(b []byte) { b[sector+60] ^= 1 }), "wrong checksum of the header"},
		{"changed entries", disk(func(b []byte) { b[2*sector+16] ^= 1 }), "wrong checksum of the entries"},
		{"bytes before the first partition", disk(func(b []byte) { b[firstPartition-1] = 1 }), "bytes between"},
		{"truncated", validGPT().image()[:gptSize-sector], "truncated: 4193792 of 4194304 bytes"},
		{"fewer entries", spec(func(s *gptSpec) { s.count = 64 }), "unexpected layout"},
		{"no partition", spec(func(s *gptSpec) { s.partitions = nil }), `partition 1: "", want the EFI system partition`},
		{"other type", spec(func(s *gptSpec) { s.partitions[1].kind = gpt.TypeESP }), "partition 2:"},
		{"other name", spec(func(s *gptSpec) { s.partitions[1].name = "data" }), `partition 2: "data"`},
		{"third partition", spec(func(s *gptSpec) { s.partitions = append(s.partitions, s.partitions[1]) }), "a partition after PHASE-CACHE"},
		{"a fallback with a gap", fallback(func(s *gptSpec) { s.partitions[1].first++ }), "unexpected positions"},
		{"a fallback of another type", fallback(func(s *gptSpec) { s.partitions[1].kind = gpt.TypeLinux }), "partition 2:"},
		{"a fallback of another name", fallback(func(s *gptSpec) { s.partitions[1].name = espName }), "partition 2:"},
		{"two fallbacks", fallback(func(s *gptSpec) { s.partitions[2] = s.partitions[1] }), "partition 3:"},
		{"a fallback far away", fallback(func(s *gptSpec) { s.partitions[1].last = 1 << 42 }), "partition 2:"},
		{"a partition after a fallback's cache", fallback(func(s *gptSpec) { s.partitions = append(s.partitions, s.partitions[1]) }), "a partition after"},
		{"gap between the partitions", spec(func(s *gptSpec) { s.partitions[1].first++ }), "unexpected positions"},
		{"ESP at another offset", spec(func(s *gptSpec) { s.partitions[0].first-- }), "unexpected positions"},
		{"partition after the end", spec(func(s *gptSpec) { s.partitions[1].last = 1 << 20 }), "unexpected positions"},
		{"end before start", spec(func(s *gptSpec) { s.partitions[1].last = 1 }), "too far away"},
		{"no backup", disk(func(b []byte) { clear(b[gptSize-sector:]) }), "backup of the partition table: no partition table"},
		{"other entries in the backup", disk(func(b []byte) { b[gptSize-sector-gptTable] ^= 1 }), "its backup differ"},
	} {
		_, err := readTable(bytes.NewReader(c.image), int64(len(c.image)))
		if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.name, err, c.words)
		}
	}
}

// An installer has moved the backup table to the end of a large stick. Verify does not copy what is before it.
func TestFormatOnlyTheEndOfADeviceIsCopied(t *testing.T) {
	for cacheEnd, want := range map[int64]span{299 * mib: {64<<30 - mib, mib}, 64<<30 - 5*sector: {64<<30 - 5*sector, 5 * sector}} {
		if got := (&table{size: 64 << 30, cache: span{265 * mib, cacheEnd - 265*mib}}).tail(); got != want {
			t.Errorf("cache to %d: %v, want %v", cacheEnd, got, want)
		}
	}
}
