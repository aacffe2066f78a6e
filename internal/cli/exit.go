package cli

import (
	"context"
	"errors"
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
	ExitUsage       = 2   // the command line, or an input of the wrong kind
	ExitUntrusted   = 3   // signature, threshold, rollback, expiry, path
	ExitNotFound    = 4   // not found or unreachable
	ExitCorrupt     = 5   // bytes that are not what they must be
	ExitInterrupted = 130 // SIGINT or SIGTERM
)

// ErrUsage marks an error that the person at the keyboard mends on the
// command line.
var ErrUsage = errors.New("usage")

// Code maps an error to the exit code of the process. It is the only place
// that does. Packages below cmd say fs.ErrInvalid where they mean a usage error.
func Code(err error) int {
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.Is(err, ErrUsage), errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EISDIR) && !errors.Is(err, cas.ErrCorrupt):
		return ExitUsage
	case errors.Is(err, manifest.ErrUntrusted):
		return ExitUntrusted
	case errors.Is(err, cas.ErrCorrupt), errors.Is(err, manifest.ErrMalformed):
		return ExitCorrupt
	case errors.Is(err, file.ErrKind): // after ErrCorrupt, which a stranger's pipe in a store is
		return ExitUsage
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, cas.ErrUnreachable):
		return ExitNotFound
	default:
		return ExitFailed
	}
}
