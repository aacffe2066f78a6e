package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// Exit codes of every command, as the README's table names them.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2   // wrong command line, or an input of the wrong kind
	ExitUntrusted   = 3   // signature, threshold, rollback, expiry, path
	ExitNotFound    = 4   // not found or unreachable
	ExitCorrupt     = 5   // bytes that do not match their hash or format
	ExitInterrupted = 130 // SIGINT or SIGTERM
)

// ErrUsage marks an error that a different command line avoids.
var ErrUsage = errors.New("usage")

// Exitf is an error with an exit code of its own: that of a job, which need not be one of the codes above.
// Numbers that a process cannot end with (it has 8 bits, and 0 is no error) become ExitFailed.
func Exitf(code int64, format string, args ...any) error {
	if code < 1 || code > 255 {
		code = ExitFailed
	}
	return &exitError{fmt.Sprintf(format, args...), int(code)}
}

type exitError struct {
	msg  string
	code int
}

func (e *exitError) Error() string { return e.msg }

// Code maps an error to the exit code of the process. No other place does. Packages below cmd wrap
// fs.ErrInvalid for a usage error.
func Code(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.Is(err, ErrUsage), errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EISDIR) && !errors.Is(err, cas.ErrCorrupt):
		return ExitUsage
	case errors.Is(err, manifest.ErrUntrusted):
		return ExitUntrusted
	case errors.Is(err, cas.ErrCorrupt), errors.Is(err, manifest.ErrMalformed):
		return ExitCorrupt
	case errors.Is(err, file.ErrKind): // after ErrCorrupt, which also wraps a pipe found inside a store
		return ExitUsage
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, cas.ErrUnreachable):
		return ExitNotFound
	default:
		return ExitFailed
	}
}
