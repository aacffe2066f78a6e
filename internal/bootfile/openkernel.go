package bootfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// OpenKernel returns a kernel as kexec_file_load takes it. An arm64 kernel in a gzip file or in a
// zboot image is decompressed: Linux can start those as EFI programs only. Every other kernel is
// returned as it is. The caller has checked it with CheckKernel.
func OpenKernel(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	data, err := head(r, size, headSize)
	if err != nil {
		return nil, err
	}
	whole := io.NewSectionReader(r, 0, size)
	switch identify(data) {
	case KindGzip:
		return gunzip(whole)
	case KindZboot:
		return openZboot(r, data)
	}
	return io.NopCloser(whole), nil
}

// IsCompressed reports whether OpenKernel decompresses a kernel.
func IsCompressed(r io.ReaderAt, size int64) bool {
	data, err := head(r, size, headSize)
	kind := identify(data)
	return err == nil && (kind == KindGzip || kind == KindZboot)
}

// openZboot decompresses the kernel of a zboot image, whose header names the kind of compression.
func openZboot(r io.ReaderAt, data []byte) (io.ReadCloser, error) {
	const offsetAt, lengthAt, compressionAt, end = 8, 12, 24, 64
	if len(data) < end {
		return nil, truncated("kernel", int64(len(data)), end)
	}
	payload := io.NewSectionReader(r, int64(little.Uint32(data[offsetAt:])), int64(little.Uint32(data[lengthAt:])))
	name, _, _ := bytes.Cut(data[compressionAt:compressionAt+32], []byte{0})
	switch string(name) {
	case "gzip":
		return gunzip(payload)
	case "zstd":
		z, err := zstd.NewReader(payload, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, invalid("the compressed data of the kernel are damaged; copy or build it again")
		}
		return oneFrame{z.IOReadCloser()}, nil
	}
	return nil, invalid("the kernel is a zboot image with compression %.40q, of which only gzip and zstd are supported; give its Image", name)
}

func gunzip(r io.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, invalid("this is a damaged gzip file; copy or build the kernel again")
	}
	z.Multistream(false)
	return z, nil
}

// oneFrame ends at the end of the first zstd frame: a zboot image has the length of the kernel
// after it.
type oneFrame struct{ io.ReadCloser }

func (f oneFrame) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if errors.Is(err, zstd.ErrMagicMismatch) {
		err = io.EOF
	}
	return n, err
}
