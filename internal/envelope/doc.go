// Package envelope signs and reads DSSE envelopes with one Ed25519 signature, and encodes the JSON inside of
// them in one form. imagebuild/attest, plasm/order and plasm/receipt call it.
//
// Start at Sign for a new envelope, at Parse and SignedBy for one that was read, and at Canonical and Decode for
// its payload. The envelopes are those of https://github.com/secure-systems-lab/dsse, so that any tool for
// DSSE reads them.
//
// It refuses every form of an envelope but the one that Sign writes, another payload type than the caller's, and
// a payload that is not canonical. A signature covers the payload type: an envelope of another type by the same
// key has no valid signature for this one. It does not know which keys are trusted: the caller compares KeyID.
//
// Limits: the caller bounds the size of an envelope. Numbers are integers between -2^53 and 2^53.
package envelope
