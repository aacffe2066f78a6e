// Package attest makes and judges statements of rebuilders: that somebody built an image again, from the
// packages that it lists, and got the same bytes. cmd/phase-image calls it: rebuild --sign makes one, verify
// --attestation demands them.
//
// Start at New and Sign for a statement, at Demand for a verdict. A statement is an in-toto Statement v1 with a
// SLSA Provenance v1 predicate, in a DSSE envelope with one Ed25519 signature. Any tool for these formats reads it.
//
// Demand counts keys, not files: a statement counts once for each rebuilder. It refuses an envelope in another
// form, a key that is not demanded, a payload that was changed, another predicate, and a statement about other
// bytes, each in its own words. It does not ask a clock or a network: a statement has no date and does not expire,
// because it says only that two builds gave the same bytes.
//
// New refuses an image that differs, and one with a package that is in no list of Debian or of the rebuilder.
//
// It opens no key: the caller has the signer. Limits: a file has at most MaxFile bytes.
package attest
