package bootfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// ErrTruncated is the error for a file of the right kind that ends too early.
var ErrTruncated = errors.New("truncated")

// An Error says why a file cannot be used: cause and remedy, without the file's name. It wraps
// ErrTruncated, fs.ErrInvalid, or the error of a read.
type Error struct {
	text   string
	reason error
}

func (e *Error) Error() string { return e.text }

func (e *Error) Unwrap() error { return e.reason }

func invalid(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), fs.ErrInvalid}
}

// truncated returns the error for a file that ends before its header says.
func truncated(what string, has, want int64) error {
	return &Error{fmt.Sprintf("%s cut short: %d of %d bytes are there; copy or build it again", what, has, want), ErrTruncated}
}

// head reads the first max bytes of a file, or the whole file if it is shorter.
func head(r io.ReaderAt, size, max int64) ([]byte, error) {
	return span(r, 0, min(max, size))
}

// span reads n bytes at an offset inside the file.
func span(r io.ReaderAt, off, n int64) ([]byte, error) {
	data := make([]byte, max(n, 0))
	if got, err := r.ReadAt(data, off); got < len(data) {
		return nil, &Error{fmt.Sprintf("cannot be read at byte %d: %v", off, err), err}
	}
	return data, nil
}

var little = binary.LittleEndian
