// Package vault signs with an Ed25519 key that stays in the transit engine of Vault or
// OpenBao, over its HTTP API. Plugin is the whole program sigstore-kms-hashivault, which
// phase-sign finds by the URI hashivault://NAME; start there.
//
// It signs with the newest version of the key and returns a signature only when it has
// verified it. It refuses every other type of key, names that are paths, and redirections,
// which would carry the token to wherever they point. It makes no keys. No other package
// imports it: package signer has no network, and so this is another program.
package vault
