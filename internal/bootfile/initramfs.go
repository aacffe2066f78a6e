package bootfile

import (
	"bytes"
	"io"
	"slices"
	"strconv"
)

// MaxInitramfs is the size of the largest initramfs that kexec_file_load(2) reads, in bytes. The root
// filesystem and the other files for the target are appended to the initramfs in the same file.
const MaxInitramfs = 1<<32 - 1

// compressed lists the compressed formats that the kernel unpacks (lib/decompress.c). Of lz4 it reads
// only the legacy format.
var compressed = []Kind{KindGzip, KindXZ, KindZstd, KindLZ4, KindLZO, KindBzip2, KindLZMA}

// CheckInitramfs refuses a file that the kernel cannot unpack. The file must begin with a cpio archive
// of the format newc or with a compressed archive. Several archives may follow each other:
// uncompressed ones must be complete, up to the first compressed one. A compressed one is
// decompressed to its end if it is gzip or zstd.
func CheckInitramfs(r io.ReaderAt, size int64) error { return checkInitramfs(r, size, decompress) }

// CheckInitramfsHead is CheckInitramfs without decompression: it accepts damaged compressed data.
func CheckInitramfsHead(r io.ReaderAt, size int64) error {
	return checkInitramfs(r, size, func(string, io.ReaderAt, int64, int64, Kind) error { return nil })
}

func checkInitramfs(r io.ReaderAt, size int64, decompress func(what string, r io.ReaderAt, at, size int64, kind Kind) error) error {
	if size > MaxInitramfs {
		return invalid("an initramfs of %d bytes; the limit of kexec is 4 GiB: make it smaller", size)
	}
	for at := int64(0); at < size || at == 0; {
		data, err := head(io.NewSectionReader(r, at, size-at), size-at, headSize)
		if err != nil {
			return err
		}
		switch kind := identify(data); {
		case slices.Contains(compressed, kind):
			return decompress("initramfs", r, at, size, kind)
		case kind != KindCpio && at == 0:
			return notA("an initramfs", kind, "give a cpio archive of the format newc, uncompressed or compressed with zstd, xz, gzip, bzip2, lzma, lzo or 'lz4 -l'")
		case kind != KindCpio:
			return invalid("at byte %d of the initramfs there is %s in place of an archive; build it again", at, kind)
		}
		if at, err = walkArchive(r, at, size); err != nil {
			return err
		}
		if at, err = skipZeros(r, at, size); err != nil {
			return err
		}
	}
	return nil
}

const (
	cpioHeader  = 110 // bytes: the magic, then hexadecimal digits
	cpioMaxName = 4096
	cpioTrailer = "TRAILER!!!"
)

// walkArchive returns the offset of the end of the archive that begins at an offset.
func walkArchive(r io.ReaderAt, at, size int64) (int64, error) {
	for start := at; at < size; {
		header, err := head(io.NewSectionReader(r, at, size-at), size-at, cpioHeader)
		if err != nil {
			return 0, err
		}
		if len(header) < cpioHeader {
			return 0, truncated("initramfs", size, at+cpioHeader)
		}
		length, nameSize, ok := cpioSizes(header)
		if !ok {
			return 0, invalid("at byte %d of the initramfs there is no cpio header of the format newc; build it again", at)
		}
		data := start + align4(at-start+cpioHeader+nameSize)
		next := start + align4(data-start+length)
		if end := data + length; end > size {
			return 0, truncated("initramfs", size, end)
		}
		name, err := span(r, at+cpioHeader, nameSize)
		if err != nil {
			return 0, err
		}
		if string(bytes.TrimRight(name, "\x00")) == cpioTrailer {
			return min(next, size), nil
		}
		at = next
	}
	return size, nil
}

// cpioSizes returns the lengths of an entry's data and of its name.
func cpioSizes(header []byte) (length, name int64, ok bool) {
	if kind := identify(header[:6]); kind != KindCpio {
		return 0, 0, false
	}
	const lengthAt, nameAt = 54, 94
	length, err := strconv.ParseInt(string(header[lengthAt:lengthAt+8]), 16, 64)
	if err != nil || length < 0 {
		return 0, 0, false
	}
	name, err = strconv.ParseInt(string(header[nameAt:nameAt+8]), 16, 64)
	return length, name, err == nil && name > 0 && name <= cpioMaxName
}

func align4(n int64) int64 { return (n + 3) &^ 3 }

// skipZeros returns the offset of the first byte that is not zero.
func skipZeros(r io.ReaderAt, at, size int64) (int64, error) {
	for at < size {
		data, err := span(r, at, min(headSize, size-at))
		if err != nil {
			return 0, err
		}
		if rest := bytes.TrimLeft(data, "\x00"); len(rest) > 0 {
			return at + int64(len(data)-len(rest)), nil
		}
		at += int64(len(data))
	}
	return size, nil
}
