// Package key opens and makes Ed25519 keys: PEM files, keys in an ssh agent, and keys in a
// KMS behind a sigstore plugin program. It signs no metadata by itself: a Key has the signer
// that package manifest calls.
//
// Start at Load for a key that signs, at LoadPublic for one that is only listed, and at
// Generate for a new one. Passphrases come from Passphrases: a file, an environment variable
// or the terminal. CheckExposed finds key files that other users can read.
//
// It refuses keys that are not Ed25519, an empty passphrase, and to replace an existing file.
// A key or passphrase file has at most 16 KiB. It opens no network connection: an agent is a
// local socket, a KMS plugin is another program.
//
// cmd/phase-sign and package signer use it for release keys; cmd/phase-publish uses it for its
// online key and its IPNS key, and imports nothing else of signer (internal/arch).
package key
