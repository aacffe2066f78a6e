package imagebuild

import (
	"bufio"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/phaseboot/phaseboot/cas"
)

// zstdWindow is the window of archive.compressed in bytes: memory that unpacking needs.
const (
	zstdWindowLog = 23
	zstdWindow    = 1 << zstdWindowLog
)

func badFrame(format string, args ...any) error {
	return fmt.Errorf("zstd: %s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// openFrame decompresses a file of size bytes, which must be exactly one zstd frame (RFC
// 8878): the kernel also unpacks every archive after the first, compressed or not, and a
// skippable frame could hide one from other tools.
func openFrame(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	end, err := frameEnd(r, size)
	if err != nil {
		return nil, err
	}
	if end != size {
		return nil, badFrame("%d bytes after its frame, which the kernel would unpack too", size-end)
	}
	z, err := zstd.NewReader(io.NewSectionReader(r, 0, size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, badFrame("%v", err)
	}
	return frame{z.IOReadCloser()}, nil
}

// frameEnd reads the block headers of the first frame and returns the offset of its end.
func frameEnd(r io.ReaderAt, size int64) (int64, error) {
	var h zstd.Header
	head := make([]byte, min(size, zstd.HeaderMaxSize))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	}
	if err := h.Decode(head); err != nil || h.Skippable || h.DictionaryID != 0 {
		return 0, badFrame("invalid frame header: %v", err)
	}
	at := int64(h.HeaderSize)
	in := bufio.NewReader(io.NewSectionReader(r, at, size-at))
	for last := false; !last; {
		var block [3]byte
		if _, err := io.ReadFull(in, block[:]); err != nil {
			return 0, badFrame("truncated")
		}
		word := int(block[0]) | int(block[1])<<8 | int(block[2])<<16
		length := word >> 3
		if word>>1&3 == 1 { // RLE block: one byte, repeated
			length = 1
		}
		if n, err := in.Discard(length); err != nil {
			return 0, badFrame("truncated: a block has %d of %d bytes", n, length)
		}
		last, at = word&1 == 1, at+3+int64(length)
	}
	if h.HasCheckSum {
		at += 4
	}
	if at > size {
		return 0, badFrame("truncated")
	}
	return at, nil
}

// A frame turns decoder errors into cas.ErrCorrupt.
type frame struct{ io.ReadCloser }

func (f frame) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		err = badFrame("%v", err)
	}
	return n, err
}
