// Package vault signs with an Ed25519 key in the transit engine of Vault or OpenBao, over its HTTP
// API. Plugin is the whole program sigstore-kms-hashivault, which signer/key runs for the URI
// hashivault://NAME; start there.
//
// It signs with the newest version of the key and verifies each signature before it returns it. It
// refuses other types of keys, key names that are paths, and HTTP redirects, which would send the
// token to another server. It makes no keys. A request takes at most 30 s, an answer has at most 1
// MiB, a message at most 16 MiB.
//
// Only its command imports it: package signer has no network, so this is a program of its own.
package vault
