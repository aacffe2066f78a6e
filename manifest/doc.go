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
// A release manifest, signatures, dates and hashes left out:
//
//	{"_type": "targets", "version": 7,
//	 "targets": {"stable/x86_64/kernel": {"length": 8123456,
//	   "custom": {"cid": "bafy…", "chunker": "zstd-4096-…", "role": "kernel"}}},
//	 "x-phaseboot": {"channel": "stable", "arch": "x86_64", "release": "2026.10",
//	   "cmdline": "console=ttyS0", "min_ram": 512, "job": "job/hello.wasm",
//	   "signed_at": "2026-10-01T12:00:00Z"}}
//
// min_ram is in MiB, job may be "". Readers pass over fields of x-phaseboot that they do
// not know, unless its list "critical" names them: then they refuse. timestamp.json has
// x-phaseboot with signed_at alone, root.json the one that [Discovery] shows.
//
// Start at [Verify]. A booting machine gives it root.json and a [Fetcher] and gets a
// [Verified], which cannot be made any other way. Everything read is bounded, then
// linted ([Lint]), then verified, and only then read for its meaning. [CheckRole] is
// the same judgement over one manifest file, for the person who signs or publishes it;
// [Channels] is the list of all releases of a repository.
//
// Signatures, versions, hashes and dates are judged here, over the tree that the lint has
// read; go-tuf reads the meaning of what is signed and stands beside as a second judge in
// the tests (docs/RATIONALE.md).
//
// The package holds no private key and opens no connection. It reads Ed25519 keys
// only, and of TUF's delegations only named roles with path patterns. Metadata files
// are at most 1 MiB (root 512 KiB, timestamp 16 KiB), chains at most 256 roots.
//
// Every refusal wraps [ErrUntrusted] with a reason, or [ErrMalformed]; what is not
// there wraps fs.ErrNotExist.
package manifest
