package bootfile

import (
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxDecompressed is how much of a compressed file is decompressed, in bytes. No machine has memory for
// more.
const maxDecompressed = 16 << 30

// maxWindow is the largest window of a zstd frame that the kernel accepts, in bytes
// (lib/decompress_unzstd.c).
const maxWindow = 128 << 20

// decompress refuses a compressed file that is truncated or damaged, or that the kernel cannot
// decompress. Only gzip and zstd are decompressed. Only the first stream is checked: data of another
// kind may follow it.
func decompress(what string, r io.ReaderAt, at, size int64, kind Kind) error {
	in := &errorReader{Reader: io.NewSectionReader(r, at, size-at)}
	err := discard(in, kind)
	switch {
	case in.err != nil:
		return &Error{"cannot be read: " + in.err.Error(), in.err}
	case err == nil, errors.Is(err, zstd.ErrMagicMismatch):
		return nil
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return invalid("the zstd window of the %s is larger than the kernel accepts (128 MiB); compress it again with 'zstd --long=27' or less", what)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{what + " cut short: the file ends inside its compressed data; copy or build it again", ErrTruncated}
	default:
		return invalid("the compressed data of the %s are damaged; copy or build it again", what)
	}
}

// discard decompresses up to maxDecompressed bytes and discards them.
func discard(r io.Reader, kind Kind) error {
	var out io.Reader
	switch kind {
	case KindGzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		z.Multistream(false)
		out = z
	case KindZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		out = z
	default:
		return nil
	}
	_, err := io.Copy(io.Discard, io.LimitReader(out, maxDecompressed))
	return err
}

// An errorReader stores the error of its Reader, which a decompressor may hide.
type errorReader struct {
	io.Reader
	err error
}

func (r *errorReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
