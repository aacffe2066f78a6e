package signer

import (
	"fmt"
	"io/fs"

	"github.com/phaseboot/phaseboot/cas"
)

// A refusal is an error whose words say all there is to say, and whose reason decides the
// exit code.
type refusal struct {
	words  string
	reason error
}

func (r *refusal) Error() string { return r.words }
func (r *refusal) Unwrap() error { return r.reason }

// invalid refuses what a person gave: exit code 2.
func invalid(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), fs.ErrInvalid}
}

// because refuses for a reason that decides the exit code.
func because(reason error, format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), reason}
}

// corrupt refuses bytes that are not what they must be: exit code 5.
func corrupt(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), cas.ErrCorrupt}
}
