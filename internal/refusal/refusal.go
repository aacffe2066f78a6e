// Package refusal makes errors whose text is complete for a reader and whose reason decides
// the exit code (internal/cli, Code). Unlike fmt.Errorf with %w, the text of the reason is not
// part of the message. Printable makes the words of another program safe for it. It is a leaf;
// every package that words a refusal calls it. Start at New.
package refusal

import (
	"fmt"
	"io/fs"
)

type refusal struct {
	text   string
	reason error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.reason }

// New returns an error with a formatted text that wraps reason.
func New(reason error, format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), reason}
}

// Invalid refuses what a user gave: it wraps fs.ErrInvalid, a usage error.
func Invalid(format string, args ...any) error {
	return New(fs.ErrInvalid, format, args...)
}
