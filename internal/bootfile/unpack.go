package bootfile

import (
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxUnpacked is how much of a compressed file is unpacked, in bytes. A machine has no memory
// for more.
const maxUnpacked = 16 << 30

// maxWindow is the largest window of a zstd frame that the kernel takes, in bytes
// (lib/decompress_unzstd.c).
const maxWindow = 128 << 20

// unpack refuses a compressed file that is cut short or damaged. Its first stream is judged:
// what lies behind may be of another kind. Only gzip and zstd are unpacked; of other forms
// the first bytes are all that was looked at.
func unpack(what string, r io.ReaderAt, at, size int64, kind Kind) error {
	in := &source{Reader: io.NewSectionReader(r, at, size-at)}
	err := drain(in, kind)
	switch {
	case in.err != nil:
		return &Error{"cannot be read: " + in.err.Error(), in.err}
	case err == nil, errors.Is(err, zstd.ErrMagicMismatch):
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{what + " cut short: the file ends inside its compressed data; copy or build it again", ErrTruncated}
	default:
		return invalid("the compressed data of the %s are damaged; copy or build it again", what)
	}
}

// drain decodes up to maxUnpacked bytes and drops them.
func drain(r io.Reader, kind Kind) error {
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
	_, err := io.Copy(io.Discard, io.LimitReader(out, maxUnpacked))
	return err
}

// A source remembers why it could not be read.
type source struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
