package bootfile

import (
	"encoding/binary"
	"io"
)

// CheckDTB refuses what is no flattened device tree, or one that is cut short
// (Devicetree Specification, chapter 5).
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
		return cut("device tree", size, end)
	}
	if total := int64(binary.BigEndian.Uint32(data[totalAt:])); total > size {
		return cut("device tree", size, total)
	}
	return nil
}
