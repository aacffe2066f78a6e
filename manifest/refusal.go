package manifest

import (
	"fmt"
	"time"
)

// What to do about a refusal.
const (
	askAnother    = "ask another source"
	askNewer      = "ask a source that is up to date"
	rightRoot     = "is this the right root.json?"
	changedSince  = "it was changed after it was signed; get the signed file again"
	moreSigners   = "the others have to sign it too, with 'phase-sign add'"
	newRoot       = "the signer has to make a new root"
	renewTargets  = "the signer has to renew it"
	renewSnapshot = "the publisher has to renew it"
	releaseAgain  = "the signer has to release again"
)

// A refusal is an error whose text is written for a person and whose reason is one of
// the package's sentinels.
type refusal struct {
	text   string
	reason error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.reason }

func refuse(reason error, format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), reason}
}

func malformed(format string, args ...any) error {
	return refuse(ErrMalformed, format, args...)
}

// inFile puts the name of a file before an error's text.
func inFile(name string, err error) error {
	return fmt.Errorf("%s: %w", name, err)
}

func stamp(t time.Time) string {
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
