// Package ipnsname converts between an Ed25519 key and its IPNS name: the CIDv1 of the
// libp2p peer ID in base36, k51… (IPNS record specification, "IPNS Name").
//
// It signs and checks no record; internal/p2p does. It is a leaf without network, so that a
// signer can name a key that a publisher uses. Start at Of.
package ipnsname

import (
	"crypto/ed25519"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"
)

// Of returns the IPNS name of a key, k51….
func Of(key ed25519.PublicKey) (string, error) {
	public, err := crypto.UnmarshalEd25519PublicKey(key)
	if err != nil {
		return "", fmt.Errorf("IPNS key: %w", err)
	}
	id, err := peer.IDFromPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("IPNS key: %w", err)
	}
	return peer.ToCid(id).StringOfBase(multibase.Base36)
}

// Key returns the key of an IPNS name. The name of an Ed25519 key contains the whole key.
func Key(name string) (ed25519.PublicKey, error) {
	id, err := peer.Decode(name)
	if err != nil {
		return nil, err
	}
	key, err := id.ExtractPublicKey()
	if err != nil {
		return nil, err
	}
	return key.Raw()
}
