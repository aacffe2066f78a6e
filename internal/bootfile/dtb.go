package bootfile

import (
	"encoding/binary"
	"io"
)

// CheckDTB refuses a file that is not a flattened device tree, or is a truncated one (Devicetree
// Specification, chapter 5).
func CheckDTB(r io.ReaderAt, size int64) error {
	const totalAt, end = 4, 40
	data, err := head(r, size, headSize)
	if err != nil {
		return err
	}
	if kind := identify(data); kind != KindDTB {
		return notA("a device tree", kind, "give the .dtb file that dtc wrote")
	}
	if len(data) < end {
		return truncated("device tree", size, end)
	}
	if total := int64(binary.BigEndian.Uint32(data[totalAt:])); total > size {
		return truncated("device tree", size, total)
	}
	return nil
}
