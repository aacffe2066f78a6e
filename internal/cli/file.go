package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// OpenInput opens a file that the command line names: a regular file, or a pipe such as <(command)
// in a shell. The error for any other kind of file, or for an empty file, names what was expected.
func OpenInput(path, what string) (*os.File, error) {
	f, err := file.OpenInput(path)
	if err != nil {
		return nil, inputError(path, what, err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = emptyInput(path, what)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inputError returns the error for an input file that cannot be read.
func inputError(path, what string, err error) error {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s: %w; check the path", what, path, fs.ErrNotExist)
	case errors.Is(err, syscall.EISDIR):
		return Usagef("%s %s: is a directory; name a file", what, path)
	case errors.Is(err, file.ErrKind) && errors.As(err, &pe):
		return Usagef("%s %s: %v; name a file", what, path, pe.Err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s %s: the pipe is still open; end the program that writes to it", what, path)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func emptyInput(path, what string) error {
	return fmt.Errorf("%s %s: the file is empty (%w); make it again", what, path, cas.ErrCorrupt)
}

// ReadInput reads a file that the command line names, at most max bytes.
func ReadInput(path, what string, max int64) ([]byte, error) {
	data, err := file.ReadInput(path, max)
	switch {
	case errors.Is(err, file.ErrTooLarge):
		return nil, Usagef("%s %s: more than %d bytes; is this the right file?", what, path, max)
	case err != nil:
		return nil, inputError(path, what, err)
	case len(data) == 0:
		return nil, emptyInput(path, what)
	}
	return data, nil
}

// ReadMetadata reads a metadata file of one kind that the command line names; belongs describes the
// file to name. Metadata of another kind is a usage error; for other content the error wraps
// manifest.ErrMalformed. It checks the form only, not signatures or dates.
func ReadMetadata(path, what string, kind manifest.Kind, belongs string) ([]byte, error) {
	data, err := ReadInput(path, what, kind.Max())
	if err != nil {
		return nil, err
	}
	is, err := manifest.KindOf(data)
	if err == nil && is != kind {
		return nil, Usagef("%s %s: is %s metadata; name %s", what, path, is, belongs)
	}
	if err == nil {
		err = manifest.Lint(kind, data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; name %s", what, path, err, belongs)
	}
	return data, nil
}
