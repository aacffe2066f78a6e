// Package order makes and judges orders: documents by which a submitter, whom the signed release names, asks
// machines to run a job. plasm/client signs them, plasm/daemon opens them.
//
// Start at New and Sign for an order, at Open for one that came over the network. An order is a DSSE envelope
// (payload type PayloadType) with one Ed25519 signature. Its payload is canonical JSON, see internal/envelope.
//
// Open refuses, each in its own words: an order without a signature, or by a key that is no submitter; a changed
// byte; another form or payload type; an order for another machine or group; one that is expired, not yet valid,
// or valid for longer than MaxAhead; a grant that the submitter does not have; a limit above the submitter's.
//
// It remembers nothing: the caller refuses a second order with the same ID until it has expired, and counts the
// jobs of a submitter. It reads no module and no input: the caller compares their digests. An envelope has at
// most MaxEnvelope bytes.
package order
