// Package bootfiletest makes the smallest files that package bootfile accepts, for tests that sign a
// release and do not boot it. The caller gives the last bytes of each file, so that files differ.
package bootfiletest

import (
	"encoding/binary"
	"fmt"
)

// Kernel returns an x86_64 bzImage or an arm64 Image without code.
func Kernel(arch, body string) []byte {
	if arch == "arm64" {
		data := make([]byte, 64, 64+len(body))
		binary.LittleEndian.PutUint64(data[16:], 1<<20)
		copy(data[56:], "ARM\x64")
		return append(data, body...)
	}
	data := make([]byte, 1024)
	for at, field := range map[int]string{0x1f1: "\x01", 0x1fe: "\x55\xaa", 0x202: "HdrS", 0x206: "\x0f\x02", 0x211: "\x01", 0x236: "\x3f\x00"} {
		copy(data[at:], field)
	}
	binary.LittleEndian.PutUint32(data[0x1f4:], uint32(len(body)/16))
	return append(data, body...)
}

// EFIKernel returns an x86_64 bzImage that is an EFI program too, with one section.
func EFIKernel(body string) []byte {
	const pe, optional, table, head = 0x280, 0x280 + 24, 0x280 + 24 + 160, 1024
	data := Kernel("x86_64", body)
	copy(data, "MZ")
	copy(data[pe:], "PE\x00\x00\x64\x86\x01\x00")
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	put32(data[0x3c:], pe)
	put16(data[pe+20:], table-optional)
	put16(data[optional:], 0x20b)
	put32(data[optional+32:], 512) // section alignment
	put32(data[optional+36:], 512) // file alignment
	put32(data[optional+56:], uint32(len(data)))
	put32(data[optional+60:], head)
	put32(data[optional+64:], 1) // checksum
	put16(data[optional+68:], 10)
	put32(data[optional+108:], 6) // data directories
	copy(data[table:], ".text")
	put32(data[table+8:], uint32(len(body)))
	put32(data[table+12:], head)
	put32(data[table+16:], uint32(len(body)))
	put32(data[table+20:], head)
	return data
}

// Initramfs returns a cpio archive with one file.
func Initramfs(body string) []byte {
	data := entry(nil, "init", body)
	return entry(data, "TRAILER!!!", "")
}

func entry(data []byte, name, body string) []byte {
	data = fmt.Appendf(data, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", 1, 0o100755, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	data = append(pad(data), body...)
	return pad(data)
}

func pad(data []byte) []byte { return append(data, make([]byte, -len(data)&3)...) }

// Rootfs returns the superblock of a squashfs.
func Rootfs(body string) []byte {
	data := make([]byte, 96, 96+len(body))
	copy(data, "hsqs")
	data[28] = 4
	data = append(data, body...)
	binary.LittleEndian.PutUint64(data[40:], uint64(len(data)))
	return data
}

// Job is a WebAssembly module with one custom section.
func Job(body string) []byte {
	body = "\x01x" + body
	data := append([]byte("\x00asm\x01\x00\x00\x00\x00"), binary.AppendUvarint(nil, uint64(len(body)))...)
	return append(data, body...)
}
