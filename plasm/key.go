package plasm

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// ParsePrivateKey reads a machine's key: an Ed25519 key in PKCS #8 PEM, without a passphrase, because a
// machine has no person to enter one. A public key is an error that wraps fs.ErrInvalid, another content one that
// wraps cas.ErrCorrupt.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	key, err := ed25519pem.Parse(data)
	return key, keyError(err, "make one with 'phase-sign key generate --no-passphrase'")
}

// ParsePublicKey reads an Ed25519 public key in PKIX PEM. A private key is an error that wraps fs.ErrInvalid,
// another content one that wraps cas.ErrCorrupt.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	key, err := ed25519pem.ParsePublic(data)
	return key, keyError(err, "name the file NAME.pub of 'phase-sign key generate'")
}

// keyError words the error of a key file.
func keyError(err error, remedy string) error {
	block := new(ed25519pem.TypeError)
	switch errors.As(err, &block); {
	case err == nil:
		return nil
	case block.Has == ed25519pem.PublicType:
		return refusal.Invalid("holds a public key; name the private one")
	case block.Has == ed25519pem.PrivateType:
		return refusal.Invalid("holds a private key; name the public one")
	}
	return fmt.Errorf("%w: %w; %s", err, cas.ErrCorrupt, remedy)
}
