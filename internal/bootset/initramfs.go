package bootset

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Limits for reading an initramfs.
const (
	maxUnpacked = 1 << 30 // bytes
	maxWindow   = 8 << 20 // memory for zstd in bytes
	maxSetting  = 1 << 20 // bytes of a file of /etc/phase
	maxName     = 4096
	cpioHeader  = 110
	trailer     = "TRAILER!!!"
)

// ErrInitramfs is the error for an initramfs that phase-image did not make for a boot.
var ErrInitramfs = errors.New("not a boot initramfs of phase-image")

// Settings reads the files of /etc/phase by their names in an initramfs, which is one zstd frame with a cpio archive
// of the format newc. It finds a file in the wrong place, but protects from nothing: the initramfs must be of a
// verified release.
func Settings(r io.ReaderAt, size int64) (map[string][]byte, error) {
	z, err := zstd.NewReader(io.NewSectionReader(r, 0, size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInitramfs, err)
	}
	defer z.Close()
	files, err := readSettings(bufio.NewReader(io.LimitReader(z, maxUnpacked)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInitramfs, err)
	}
	return files, nil
}

func readSettings(in *bufio.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for {
		name, size, err := readHeader(in)
		if err != nil || name == trailer {
			return files, err
		}
		take := int64(0)
		if path.Dir(strings.TrimPrefix(name, "./")) == "etc/phase" && size > 0 && size <= maxSetting {
			data := make([]byte, size)
			if _, err := io.ReadFull(in, data); err != nil {
				return nil, err
			}
			files[path.Base(name)], take = data, size
		}
		if _, err := io.CopyN(io.Discard, in, (size+3)&^3-take); err != nil {
			return nil, err
		}
	}
}

// readHeader reads the header and the name of a member.
func readHeader(in io.Reader) (name string, size int64, err error) {
	head := make([]byte, cpioHeader)
	if _, err := io.ReadFull(in, head); err != nil {
		return "", 0, err
	}
	size, err1 := strconv.ParseInt(string(head[54:62]), 16, 64)
	length, err2 := strconv.ParseInt(string(head[94:102]), 16, 64)
	if string(head[:6]) != "070701" || err1 != nil || err2 != nil || size < 0 || length < 1 || length > maxName {
		return "", 0, errors.New("no cpio header")
	}
	text := make([]byte, (cpioHeader+length+3)&^3-cpioHeader)
	if _, err := io.ReadFull(in, text); err != nil {
		return "", 0, err
	}
	return strings.TrimRight(string(text), "\x00"), size, nil
}
