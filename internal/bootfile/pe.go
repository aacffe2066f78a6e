package bootfile

import "io"

// A peHeader has fields of the PE header of a kernel that is also an EFI program (Microsoft's PE
// format).
type peHeader struct {
	machine  uint16
	sections int64
	optional int64 // offset of the optional header
	table    int64 // offset of the section table
}

const (
	peMagic     = "PE\x00\x00"
	peOffsetAt  = 0x3c
	peFixed     = 24  // signature and file header
	peMaxOffset = 512 // of the header; Linux uses a smaller one
	peSection   = 40
	peSections  = 96 // limit of a loader
)

// readPE reads the headers of an EFI program. It returns false for another file.
func readPE(data []byte) (peHeader, bool) {
	if len(data) < peOffsetAt+4 || string(data[:2]) != "MZ" {
		return peHeader{}, false
	}
	at := int64(little.Uint32(data[peOffsetAt:]))
	if at > peMaxOffset || at+peFixed > int64(len(data)) || string(data[at:at+4]) != peMagic {
		return peHeader{}, false
	}
	h := data[at+4:]
	optional := at + peFixed
	return peHeader{
		machine: little.Uint16(h), sections: min(int64(little.Uint16(h[2:])), peSections),
		optional: optional, table: optional + int64(little.Uint16(h[16:])),
	}, true
}

func (h peHeader) arch() string {
	switch h.machine {
	case 0x8664:
		return X86_64
	case 0xaa64:
		return ARM64
	}
	return "another architecture"
}

// checkPE refuses a kernel that ends before the last section in its EFI header or before the end of its
// Secure Boot signature. A kernel without an EFI header passes.
func checkPE(r io.ReaderAt, data []byte, size int64) error {
	h, ok := readPE(data)
	if !ok {
		return nil
	}
	end := h.table + h.sections*peSection
	if end > size {
		return truncated("kernel", size, end)
	}
	table, err := span(r, h.table, h.sections*peSection)
	if err != nil {
		return err
	}
	for ; len(table) > 0; table = table[peSection:] {
		const sizeAt, offsetAt = 16, 20
		if off := int64(little.Uint32(table[offsetAt:])); off > 0 {
			end = max(end, off+int64(little.Uint32(table[sizeAt:])))
		}
	}
	if end = max(end, h.signatureEnd(data)); size < end {
		return truncated("kernel", size, end)
	}
	return nil
}

// signatureEnd returns the offset of the end of the Secure Boot signature, 0 without one.
func (h peHeader) signatureEnd(data []byte) int64 {
	const plus, countAt, entry, certificates = 0x20b, 108, 8, 4
	at := h.optional + countAt + 4 + certificates*entry
	if at+entry > min(h.table, int64(len(data))) || little.Uint16(data[h.optional:]) != plus ||
		little.Uint32(data[h.optional+countAt:]) <= certificates {
		return 0
	}
	return int64(little.Uint32(data[at:])) + int64(little.Uint32(data[at+4:]))
}

// IsSigned reports whether a kernel has a Secure Boot signature. It does not check the signature.
func IsSigned(r io.ReaderAt, size int64) bool {
	data, err := head(r, size, headSize)
	if err != nil {
		return false
	}
	h, ok := readPE(data)
	return ok && h.signatureEnd(data) > 0
}
