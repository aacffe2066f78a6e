package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// targetAdvice is what to do when a release was started and cannot go on: nothing that a
// person can change at this machine.
const targetAdvice = "the release is faulty: tell its publisher; `reboot` starts again with what is published then, or take another entry of the boot menu"

// bootAdvice is what to do next after a refused attempt, by its cause. It is empty where
// the error says it itself.
func bootAdvice(err error) string {
	var kernel *bootfile.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errMemory), errors.Is(err, errNoCard):
		return ""
	case errors.As(err, &kernel):
		return "the release is faulty: tell its publisher; the next attempt takes what is published then"
	case errors.Is(err, manifest.ErrExpired):
		return "look at the clock with `date`; tell the publisher of the channel that its metadata have expired"
	case errors.Is(err, manifest.ErrUntrusted), errors.Is(err, manifest.ErrMalformed):
		return "another publisher (phase.mirror=, phase.peer=), or an image that was made with the root.json of this repository"
	case errors.Is(err, cas.ErrCorrupt):
		return "another publisher (phase.mirror=, phase.peer=); if several send wrong bytes, test the memory of this machine"
	case errors.Is(err, cas.ErrUnreachable):
		return "the network cable, another entry of the boot menu, another publisher (phase.mirror=, phase.peer=)"
	}
	return "another entry of the boot menu"
}

// withAdvice adds what to do next as a line of its own.
func withAdvice(err error, advice string) error {
	if err == nil || advice == "" {
		return err
	}
	return fmt.Errorf("%w\nto try: %s", err, advice)
}

// refusedWords are what was offered and not taken, a line each, as many as fit into limit
// bytes.
func refusedWords(refused []bootclient.Refusal, limit int) string {
	words := ""
	for _, r := range refused {
		line := fmt.Sprintf("\nrefused: %s from %s: %s", r.What, r.Source, r.Why)
		if len(words)+len(line) > limit {
			return words + "\nrefused: more, see `phase-boot status`"
		}
		words += line
	}
	return words
}
