package authenticode

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/phaseboot/phaseboot/cas"
)

// Offsets of fields in the optional header of PE32+, and limits, in bytes.
const (
	checksumField  = 64
	subsystemField = 68
	countField     = 108 // of data directories
	directories    = 112
	dirSize        = 8
	dirSignatures  = 4
	optionalAt     = 24 // after the PE signature

	maxHeader = 64 << 10
	maxOffset = 4096 // of the PE signature
)

// A program is what a signature needs to know of an EFI program: PE32+, as in Microsoft's PE format.
type program struct {
	head      []byte // the headers
	optional  int    // offset of the optional header
	sections  []pe.SectionHeader32
	start     int64 // of the signatures, 0 without
	sigLength int64
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("EFI program: %s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

var little = binary.LittleEndian

// readProgram reads the headers of an EFI program of size bytes. It refuses one whose sections or
// signatures are not in the file or overlap.
func readProgram(r io.ReaderAt, size int64) (*program, error) {
	head := make([]byte, min(size, maxHeader))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, err
	}
	if len(head) < 64 || string(head[:2]) != "MZ" {
		return nil, malformed("no MZ header")
	}
	at := int(little.Uint32(head[60:]))
	p := &program{optional: at + optionalAt}
	if at > maxOffset || p.optional+directories > len(head) || string(head[at:at+4]) != "PE\x00\x00" || little.Uint16(head[p.optional:]) != 0x20b {
		return nil, malformed("not PE32+")
	}
	var file pe.FileHeader
	if _, err := binary.Decode(head[at+4:], little, &file); err != nil {
		return nil, err
	}
	count, length := int64(little.Uint32(head[p.optional+countField:])), int(little.Uint32(head[p.optional+60:]))
	table := p.optional + int(file.SizeOfOptionalHeader)
	p.sections = make([]pe.SectionHeader32, file.NumberOfSections)
	switch {
	case count <= dirSignatures || p.optional+directories+int(count)*dirSize > table:
		return nil, malformed("%d data directories: no room for a signature", count)
	case length > len(head) || table+binary.Size(p.sections) > length:
		return nil, malformed("header of %d bytes for %d sections", length, len(p.sections))
	}
	p.head = head[:length]
	if _, err := binary.Decode(head[table:], little, p.sections); err != nil {
		return nil, err
	}
	return p, p.check(size)
}

// check sorts the sections that have bytes in the file, and refuses those that overlap.
func (p *program) check(size int64) error {
	p.sections = slices.DeleteFunc(p.sections, func(s pe.SectionHeader32) bool { return s.SizeOfRawData == 0 })
	slices.SortStableFunc(p.sections, func(a, b pe.SectionHeader32) int { return cmp.Compare(a.PointerToRawData, b.PointerToRawData) })
	end := int64(len(p.head))
	for _, s := range p.sections {
		if int64(s.PointerToRawData) < end {
			return malformed("section %.8q: its bytes belong to the part before too", s.Name)
		}
		end = int64(s.PointerToRawData) + int64(s.SizeOfRawData)
	}
	dir := p.head[p.directory():]
	p.start, p.sigLength = int64(little.Uint32(dir)), int64(little.Uint32(dir[4:]))
	if (p.start == 0) != (p.sigLength == 0) {
		return malformed("signatures of %d bytes at byte %d", p.sigLength, p.start)
	}
	if p.start == 0 {
		p.start = size
	}
	if end > p.start || p.start+p.sigLength != size {
		return malformed("sections end at byte %d, signatures are at %d to %d, of %d", end, p.start, p.start+p.sigLength, size)
	}
	return nil
}

// signed reports whether there is a signature.
func (p *program) signed() bool { return p.sigLength > 0 }

// checksum, subsystem and directory return offsets of fields: the checksum, which firmware does not
// read, the kind of program, and the place of the signatures.
func (p *program) checksum() int  { return p.optional + checksumField }
func (p *program) subsystem() int { return p.optional + subsystemField }
func (p *program) directory() int { return p.optional + directories + dirSignatures*dirSize }

// sum returns the digest of a program without its checksum, its signatures and their place, as firmware
// and Linux compute it: header and sections, then the rest after as many bytes as those have.
func (p *program) sum(r io.ReaderAt) ([]byte, error) {
	sum := sha256.New()
	sum.Write(p.head[:p.checksum()])
	sum.Write(p.head[p.checksum()+4 : p.directory()])
	sum.Write(p.head[p.directory()+dirSize:])
	hashed := int64(len(p.head))
	for _, s := range p.sections {
		if _, err := io.Copy(sum, io.NewSectionReader(r, int64(s.PointerToRawData), int64(s.SizeOfRawData))); err != nil {
			return nil, err
		}
		hashed += int64(s.SizeOfRawData)
	}
	_, err := io.Copy(sum, io.NewSectionReader(r, hashed, p.start-hashed))
	return sum.Sum(nil), err
}

// covered refuses a program with bytes between its sections, which a signature does not cover.
func (p *program) covered() error {
	end := int64(len(p.head))
	for _, s := range p.sections {
		if int64(s.PointerToRawData) != end {
			return malformed("bytes %d to %d are in no section, so no signature covers them", end, s.PointerToRawData)
		}
		end += int64(s.SizeOfRawData)
	}
	return nil
}

// SetChecksum writes the checksum of a program whose checksum field is at an offset.
func SetChecksum(program []byte, at int) error {
	sum, err := Checksum(bytes.NewReader(program), at)
	little.PutUint32(program[at:], sum)
	return err
}

// Checksum computes the checksum of an EFI program: the sum of its 16-bit words with the carry
// added, plus its length. The four bytes of the checksum itself, at an even offset, count as zeros.
func Checksum(r io.Reader, at int) (uint32, error) {
	var sum uint32
	var length int64
	buf := make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, buf)
		b := buf[:n]
		if length == 0 && at+4 <= n {
			clear(b[at : at+4])
		}
		length += int64(n)
		if n%2 == 1 {
			b = append(b, 0)
		}
		for ; len(b) > 0; b = b[2:] {
			sum += uint32(little.Uint16(b))
			sum = sum&0xffff + sum>>16
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return sum&0xffff + sum>>16 + uint32(length), nil
		default:
			return 0, err
		}
	}
}
