// Package signer is the release authority's side: keys, and the ceremonies in which
// people sign what machines may run. cmd/phase-sign is its command; cmd/phase-publish
// loads its online and IPNS keys through Load and nothing else.
//
// Start at Load for keys, at Init for a new repository and at Release for a release:
// Release hashes the files itself, Add puts one more signature under the same bytes,
// Show says in words what a signature would stand for, Verify checks a release against
// root.json without any publisher. What a release is, and when it is to be trusted, is
// decided in package manifest; signer never re-implements those rules.
//
// It refuses keys that are not Ed25519, private keys without a passphrase unless asked
// for by name, a key that the delegation does not list, and to replace an existing
// key or repository. Nothing here opens a network connection: a key agent is a local
// socket and a KMS is a plugin program. It never runs on the booting machine.
package signer
