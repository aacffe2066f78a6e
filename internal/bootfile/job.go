package bootfile

import (
	"encoding/binary"
	"io"
	"math"
)

// CheckJob refuses a file that is not a complete WebAssembly core module of version 1. It does not
// check the imports and declarations of the module.
func CheckJob(r io.ReaderAt, size int64) error {
	const header = 8
	data, err := head(r, size, headSize)
	if err != nil {
		return err
	}
	if kind := identify(data); kind != KindWASM {
		return notA("a WebAssembly module", kind, "give the .wasm file, built for wasip1")
	}
	if len(data) < header {
		return truncated("module", size, header)
	}
	switch version := little.Uint32(data[4:]); version {
	case 1:
		return walkSections(r, header, size)
	case 0x1000d:
		return invalid("this is a WebAssembly component; plasmd runs core modules: build it for wasip1")
	default:
		return invalid("this is a WebAssembly file of version %d; plasmd runs core modules of version 1: build it for wasip1", version)
	}
}

// walkSections checks that the sections of a module end at the end of the file. A section is an ID of
// one byte, a length, and that many bytes.
func walkSections(r io.ReaderAt, at, size int64) error {
	const longest = 6 // the ID and a 32-bit LEB128 number
	for at < size {
		data, err := head(io.NewSectionReader(r, at, size-at), size-at, longest)
		if err != nil {
			return err
		}
		length, n := binary.Uvarint(data[1:]) // LEB128
		switch {
		case n == 0 && len(data) < longest:
			return truncated("module", size, size+1)
		case n == 0 || length > math.MaxUint32:
			return invalid("at byte %d of the module there is no section; build it again", at)
		}
		if at += 1 + int64(n) + int64(length); at > size {
			return truncated("module", size, at)
		}
	}
	return nil
}
