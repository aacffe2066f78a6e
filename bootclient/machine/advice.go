package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// targetAdvice is the advice for a release that was started and failed. No setting of this
// machine can repair it.
const targetAdvice = "the release is faulty: inform its publisher; a restart boots the newest published release"

// bootAdvice returns what to try after a failed attempt, by the cause of the failure. It
// returns "" where the error itself says it.
func bootAdvice(err error) string {
	var kernel *bootfile.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errMemory), errors.Is(err, network.ErrNoNIC):
		return ""
	case errors.As(err, &kernel):
		return "the release is faulty: inform its publisher; the next attempt boots the newest published release"
	case errors.Is(err, manifest.ErrExpired):
		return "check the clock with `date`; inform the publisher of the channel that its metadata have expired"
	case errors.Is(err, manifest.ErrUntrusted), errors.Is(err, manifest.ErrMalformed):
		return "another publisher (phase.mirror=, phase.peer=), or an image made with the root.json of this repository"
	case errors.Is(err, cas.ErrCorrupt):
		return "another publisher (phase.mirror=, phase.peer=); if several send wrong bytes, test the memory of this machine"
	case errors.Is(err, cas.ErrUnreachable):
		return "check the network cable, choose another boot mode in the menu, or name another publisher (phase.mirror=, phase.peer=)"
	}
	return "another boot mode or channel in the menu"
}

// withAdvice appends the advice to an error as a line of its own.
func withAdvice(err error, advice string) error {
	if err == nil || advice == "" {
		return err
	}
	return fmt.Errorf("%w\nto try: %s", err, advice)
}
