package plasm

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
)

// ParsePrivateKey reads a machine's key: one PEM block, PKCS8, Ed25519, without a
// passphrase, since a machine has nobody to ask. What is no such key wraps
// cas.ErrCorrupt.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	block, err := onlyBlock(data, "PRIVATE KEY")
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

// ParsePublicKey reads a public key: one PEM block, PKIX, Ed25519. What is no such
// key wraps cas.ErrCorrupt.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	block, err := onlyBlock(data, "PUBLIC KEY")
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

// onlyBlock returns the first PEM block, if it is of the wanted type.
func onlyBlock(data []byte, want string) (*pem.Block, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in it: %w", cas.ErrCorrupt)
	}
	if block.Type != want {
		return nil, fmt.Errorf("a PEM block %.60q where %q is needed: %w", block.Type, want, cas.ErrCorrupt)
	}
	return block, nil
}
