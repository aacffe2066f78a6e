package plasm

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
)

// ParsePrivateKey reads a machine's key: an Ed25519 key in PKCS #8 PEM, without a passphrase, because a
// machine has no person to enter one. Another content is an error that wraps cas.ErrCorrupt.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	block, err := firstBlock(data, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("PKCS8: %v: %w", err, cas.ErrCorrupt)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%T is not Ed25519: %w; make one with 'openssl genpkey -algorithm ed25519'", parsed, cas.ErrCorrupt)
	}
	return key, nil
}

// ParsePublicKey reads an Ed25519 public key in PKIX PEM. Another content is an error that wraps
// cas.ErrCorrupt.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	block, err := firstBlock(data, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("PKIX: %v: %w", err, cas.ErrCorrupt)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%T is not Ed25519: %w", parsed, cas.ErrCorrupt)
	}
	return key, nil
}

// firstBlock returns the first PEM block, which must be of the wanted type.
func firstBlock(data []byte, want string) (*pem.Block, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in it: %w", cas.ErrCorrupt)
	}
	if block.Type != want {
		return nil, fmt.Errorf("a PEM block %.60q where %q is needed: %w", block.Type, want, cas.ErrCorrupt)
	}
	return block, nil
}
