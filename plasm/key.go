package plasm

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
)

// ParsePrivateKey reads a machine's key: an Ed25519 key in PKCS #8 PEM, without a passphrase, because a
// machine has no person to enter one. Another content is an error that wraps cas.ErrCorrupt.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	key, err := ed25519pem.Parse(data)
	if other := new(ed25519pem.KindError); errors.As(err, &other) {
		return nil, fmt.Errorf("%w: %w; make one with 'openssl genpkey -algorithm ed25519'", err, cas.ErrCorrupt)
	}
	return key, corruptKey(err)
}

// ParsePublicKey reads an Ed25519 public key in PKIX PEM. Another content is an error that wraps
// cas.ErrCorrupt.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	key, err := ed25519pem.ParsePublic(data)
	return key, corruptKey(err)
}

func corruptKey(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	return nil
}
