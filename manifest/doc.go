// Package manifest says what a release is, byte for byte, and is the only place
// where trust is decided.
//
// A repository is a TUF repository (specification 1.0.31, through go-tuf): a chain of
// N.root.json, N.targets.json with one delegated role for each channel and
// architecture, N.snapshot.json and timestamp.json. The delegated role is the
// release manifest: its targets are the artifacts, its field x-phaseboot holds what
// concerns the whole release. [Encode] and [Decode] turn a [Release] into such a role
// and back; NewRoot, NewTargets, NewSnapshot and NewTimestamp build the other files.
//
// Start at [Verify]. A booting machine gives it root.json and a [Fetcher] and gets a
// [Verified], which cannot be made any other way. Everything read is bounded, then
// linted ([Lint]), then verified, and only then read for its meaning. [CheckRole] is
// the same judgement over one manifest file, for the person who signs or publishes it;
// [Channels] is the list of all releases of a repository.
//
// The package holds no private key and opens no connection. It reads Ed25519 keys
// only, and of TUF's delegations only named roles with path patterns. Metadata files
// are at most 1 MiB (root 512 KiB, timestamp 16 KiB), chains at most 256 roots.
//
// Every refusal wraps [ErrUntrusted] with a reason, or [ErrMalformed]; what is not
// there wraps fs.ErrNotExist.
package manifest
