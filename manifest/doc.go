// Package manifest defines the release format and is the only place where trust is decided.
//
// A repository is a TUF repository (specification 1.0.31): a chain of N.root.json, N.targets.json
// with one delegated role for each channel and architecture, N.snapshot.json and timestamp.json.
// The delegated role is the release manifest; Encode shows its form.
//
// Start at Verify: a booting machine gives it root.json and a Fetcher and gets a Verified, which
// nothing else makes. Every file is bounded, then linted (Lint), then verified, and only then
// decoded. workflow_top.go compares versions with those seen before (rollback). CheckRole and Root
// check files that are not published yet, for a signer or a publisher. Open returns a Document:
// what a file contains and which signatures are valid, without trust.
//
// The callers are signer, publisher, bootclient, imagebuild, plasm and their commands. It has no
// private key and no network. It reads Ed25519 keys only, and of TUF's delegations only named
// roles with path patterns. Files have at most 1 MiB (root 512 KiB, timestamp 16 KiB), chains at
// most 256 roots. A refusal wraps ErrUntrusted or ErrMalformed; a missing file fs.ErrNotExist.
package manifest
