package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Advise adds the remedy to an error about a path that an operator named, and drops the path,
// which the caller's own text already contains.
func Advise(err error) error {
	err = Pathless(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; check the path", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as a user who may read it", err)
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("%w; name a file", err)
	case errors.Is(err, syscall.ENOTDIR):
		return refusal.Invalid("a part of the path is a file; name a folder")
	}
	return err
}

// Pathless returns the cause of an fs.PathError without its path, and other errors as they are.
func Pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
