package manifest

import (
	"fmt"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Remedies that several refusals share.
const (
	askAnother    = "ask another source"
	askNewer      = "ask a source that is up to date"
	rightRoot     = "is this the right root.json?"
	changedSince  = "it was changed after it was signed; get the signed file again"
	moreSigners   = "the other signers have to sign it, with 'phase-sign add'"
	newRoot       = "the signer has to make a new root"
	renewTargets  = "the signer has to renew it"
	renewSnapshot = "the publisher has to renew it"
	releaseAgain  = "the signer has to release again"
	settingsAgain = "the signer has to sign the settings again, with 'phase-sign config renew'"
)

// refuse returns an error with a text for an operator. Its reason is one of the package's
// sentinels.
func refuse(reason error, format string, args ...any) error {
	return refusal.New(reason, format, args...)
}

// malformed refuses bytes that are not metadata of ours.
func malformed(format string, args ...any) error {
	return refuse(ErrMalformed, format, args...)
}

// inFile puts the name of a file before the text of an error. nil stays nil.
func inFile(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}
