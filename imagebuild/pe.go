package imagebuild

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// Limits for the headers of an EFI program, in bytes.
const (
	maxPEHeader = 64 << 10
	maxPEOffset = 512 // of the PE signature
	pePage      = 4096

	peFields  = 112                 // bytes of the optional header before its data directories
	peMinimum = dirCertificates + 1 // data directories
)

// dirCertificates is the data directory with the offset and size of the Secure Boot signatures.
const dirCertificates = 4

// A peHeader is the header of an EFI program: PE32+, as in Microsoft's PE format. raw is the
// first SizeOfHeaders bytes of the file.
type peHeader struct {
	raw   []byte
	at    int // offset of the PE signature
	file  pe.FileHeader
	opt   pe.OptionalHeader64
	table []pe.SectionHeader32
}

func badPE(format string, args ...any) error {
	return fmt.Errorf("EFI program: %s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

func align[T int64 | uint32](n, to T) T { return (n + to - 1) / to * to }

// readPEHeader reads the header of an EFI program of size bytes. It refuses a header that does not
// encode back to the same bytes, and one with fields that no linker of systemd writes.
func readPEHeader(r io.ReaderAt, size int64) (*peHeader, error) {
	dos := make([]byte, 64)
	if err := readFull(r, dos, 0); err != nil {
		return nil, err
	}
	h := &peHeader{at: int(binary.LittleEndian.Uint32(dos[60:]))}
	if string(dos[:2]) != "MZ" || h.at < len(dos) || h.at > maxPEOffset {
		return nil, badPE("no MZ header, or the PE header is not in its first %d bytes", maxPEOffset)
	}
	if err := h.readFields(r); err != nil {
		return nil, err
	}
	if err := h.check(size); err != nil {
		return nil, err
	}
	h.raw = make([]byte, h.opt.SizeOfHeaders)
	if err := readFull(r, h.raw, 0); err != nil {
		return nil, err
	}
	h.table = make([]pe.SectionHeader32, h.file.NumberOfSections)
	if err := binary.Read(bytes.NewReader(h.raw[h.tableAt():]), binary.LittleEndian, h.table); err != nil {
		return nil, err
	}
	return h, h.checkSections(size)
}

// readFields reads the header's fields up to the section table. Debian 12's stub for arm64 has 6 data directories, and
// other programs have 16.
func (h *peHeader) readFields(r io.ReaderAt) error {
	head := make([]byte, 4+binary.Size(h.file))
	if err := readFull(r, head, int64(h.at)); err != nil {
		return err
	}
	if _, err := binary.Decode(head[4:], binary.LittleEndian, &h.file); err != nil {
		return err
	}
	size := int(h.file.SizeOfOptionalHeader)
	if string(head[:4]) != "PE\x00\x00" || size < peFields+8*peMinimum || size > binary.Size(h.opt) {
		return badPE("no PE header, or its optional header has %d bytes", size)
	}
	all := make([]byte, binary.Size(h.opt))
	if err := readFull(r, all[:size], int64(h.at+len(head))); err != nil {
		return err
	}
	_, err := binary.Decode(all, binary.LittleEndian, &h.opt)
	return err
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n < len(b) {
		return badPE("truncated at byte %d", at+int64(n))
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// check refuses a header whose parts have other sizes than those of PE32+, or do not fit into it.
func (h *peHeader) check(size int64) error {
	o := &h.opt
	powerOf2 := func(n uint32) bool { return n >= 512 && n <= 64<<10 && n&(n-1) == 0 }
	switch {
	case o.Magic != 0x20b || uint64(h.file.SizeOfOptionalHeader) != peFields+8*uint64(o.NumberOfRvaAndSizes):
		return badPE("not PE32+, or %d data directories in an optional header of %d bytes", o.NumberOfRvaAndSizes, h.file.SizeOfOptionalHeader)
	case peArch(h.file.Machine) == "":
		return badPE("machine %#x: neither x86_64 nor arm64", h.file.Machine)
	case !powerOf2(o.FileAlignment) || !powerOf2(o.SectionAlignment):
		return badPE("alignment of %d and %d bytes", o.FileAlignment, o.SectionAlignment)
	case o.SizeOfHeaders > maxPEHeader || int64(o.SizeOfHeaders) > size || o.SizeOfHeaders%o.FileAlignment != 0 || h.tableEnd() > int(o.SizeOfHeaders):
		return badPE("header of %d bytes for %d sections", o.SizeOfHeaders, h.file.NumberOfSections)
	}
	return nil
}

// checkSections refuses a section outside the file, and two sections with common bytes, in the
// file or in memory.
func (h *peHeader) checkSections(size int64) error {
	offset, address := int64(h.opt.SizeOfHeaders), int64(h.opt.SizeOfHeaders)
	for _, s := range h.table {
		start, end := int64(s.PointerToRawData), int64(s.PointerToRawData)+int64(s.SizeOfRawData)
		if start < offset || end > size {
			return badPE("section %.8q: bytes %d to %d of the file overlap the part before, or are not in it", peName(s), start, end)
		}
		from := int64(s.VirtualAddress)
		if from < address || from+int64(s.VirtualSize) > int64(h.opt.SizeOfImage) {
			return badPE("section %.8q: address %#x overlaps the part before, or is not in the image", peName(s), from)
		}
		offset, address = end, from+int64(s.VirtualSize)
	}
	return nil
}

// peArch returns the architecture that a PE machine number means, as releases name it.
func peArch(machine uint16) string {
	switch machine {
	case pe.IMAGE_FILE_MACHINE_AMD64:
		return "x86_64"
	case pe.IMAGE_FILE_MACHINE_ARM64:
		return "arm64"
	}
	return ""
}

func peName(s pe.SectionHeader32) string { return strings.TrimRight(string(s.Name[:]), "\x00") }

func (h *peHeader) tableAt() int {
	return h.at + 4 + binary.Size(h.file) + int(h.file.SizeOfOptionalHeader)
}

func (h *peHeader) tableEnd() int {
	return h.tableAt() + int(h.file.NumberOfSections)*binary.Size(pe.SectionHeader32{})
}

// checksumAt returns the offset of the checksum, which firmware does not read.
func (h *peHeader) checksumAt() int { return h.at + 4 + binary.Size(h.file) + 64 }

// end returns the offset after the last section and the symbol table of a file.
func (h *peHeader) end(r io.ReaderAt) (int64, error) {
	end := int64(h.opt.SizeOfHeaders)
	for _, s := range h.table {
		end = max(end, int64(s.PointerToRawData)+int64(s.SizeOfRawData))
	}
	if h.file.PointerToSymbolTable == 0 {
		return end, nil
	}
	texts := int64(h.file.PointerToSymbolTable) + int64(h.file.NumberOfSymbols)*pe.COFFSymbolSize
	var size [4]byte
	if err := readFull(r, size[:], texts); err != nil {
		return 0, err
	}
	return max(end, texts+int64(binary.LittleEndian.Uint32(size[:]))), nil
}

// encode returns the header as bytes.
func (h *peHeader) encode() ([]byte, error) {
	if h.tableEnd() > len(h.raw) {
		return nil, badPE("its header has no room for %d sections", len(h.table))
	}
	out := slices.Clone(h.raw)
	opt, err := binary.Append(nil, binary.LittleEndian, h.opt)
	if err != nil {
		return nil, err
	}
	copy(out[h.at+4+binary.Size(h.file):h.tableAt()], opt)
	for at, part := range map[int]any{h.at + 4: h.file, h.tableAt(): h.table} {
		if _, err := binary.Encode(out[at:], binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// noOperation is an instruction of arm64. The linker script of gnu-efi fills the header with it.
var noOperation = []byte{0x1f, 0x20, 0x03, 0xd5}

// filler returns the four bytes that follow the section table up to the end of the header, again and again: zeros, or
// noOperation. Nil means other bytes.
func (h *peHeader) filler() []byte {
	rest := h.raw[h.tableEnd():]
	if allZero(rest) {
		return make([]byte, len(noOperation))
	}
	if h.file.Machine != pe.IMAGE_FILE_MACHINE_ARM64 || !bytes.Equal(rest, fill(len(rest), noOperation)) {
		return nil
	}
	return noOperation
}

// fill returns n bytes of a repeated word.
func fill(n int, word []byte) []byte { return bytes.Repeat(word, n/len(word)+1)[:n] }

// A peSection is a section that is added to an EFI program.
type peSection struct {
	name string
	size int64
}

// with returns the header of the program with more sections. end is that of the method end. The
// sections follow each other in the file, and in memory each begins a page. The checksum stays.
func (h *peHeader) with(end int64, more []peSection) (*peHeader, error) {
	w := *h
	w.table = slices.Clone(h.table)
	address := align(int64(h.opt.SizeOfImage), pePage)
	for _, m := range more {
		offset, raw := align(end, int64(h.opt.FileAlignment)), align(m.size, int64(h.opt.FileAlignment))
		if end = offset + raw; max(end, address+raw) > math.MaxInt32 {
			return nil, badPE("section %s: the file would be larger than 2 GiB", m.name)
		}
		s := pe.SectionHeader32{
			VirtualSize: uint32(m.size), VirtualAddress: uint32(address), SizeOfRawData: uint32(raw), PointerToRawData: uint32(offset),
			Characteristics: pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ,
		}
		copy(s.Name[:], m.name)
		w.table = append(w.table, s)
		w.opt.SizeOfInitializedData += uint32(raw)
		w.opt.SizeOfImage = align(uint32(address+m.size), h.opt.SectionAlignment)
		address = align(address+m.size, pePage)
	}
	w.file.NumberOfSections = uint16(len(w.table))
	return &w, nil
}

// without returns the header without its last n sections: that of the program to which with added
// them. filler is not nil.
func (h *peHeader) without(n int) *peHeader {
	w := *h
	w.raw = slices.Clone(h.raw)
	w.table = slices.Clone(h.table[:len(h.table)-n])
	w.file.NumberOfSections = uint16(len(w.table))
	copy(w.raw[w.tableEnd():], fill(h.tableEnd()-w.tableEnd(), h.filler()))
	for _, s := range h.table[len(w.table):] {
		w.opt.SizeOfInitializedData -= s.SizeOfRawData
	}
	w.opt.SizeOfImage = w.loadedSize()
	return &w
}

// loadedSize returns the size of the program in memory, as linkers compute it from its last section.
func (h *peHeader) loadedSize() uint32 {
	size := h.opt.SizeOfHeaders
	for _, s := range h.table {
		size = max(size, s.VirtualAddress+align(s.VirtualSize, h.opt.SectionAlignment))
	}
	return size
}
