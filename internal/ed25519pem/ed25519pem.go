// Package ed25519pem reads and writes Ed25519 keys in PEM: private keys as PKCS #8 (RFC 8410,
// "PRIVATE KEY"), public keys as PKIX ("PUBLIC KEY"). OpenSSL reads both.
//
// It refuses every other kind of key and of PEM block, and knows no passphrases: encrypted
// keys are opened by signer/key. Text after the first block is ignored. Its errors name the
// cause and no file; the callers add the file and the remedy. Signer, publisher, machine and
// plasm call it. It is a leaf. Start at Marshal and Parse.
package ed25519pem

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Types of the PEM blocks.
const (
	PrivateType = "PRIVATE KEY"
	PublicType  = "PUBLIC KEY"
)

// A KindError says that a key is not an Ed25519 key.
type KindError struct {
	Kind string // for example "ECDSA" or "RSA"
}

// Error implements error.
func (e *KindError) Error() string { return e.Kind + " key: is not Ed25519" }

// A TypeError says that a PEM block has another type: the public key in place of the private one, or something else.
type TypeError struct {
	Has, Want string
}

// Error implements error.
func (e *TypeError) Error() string {
	return fmt.Sprintf("a PEM block %.60q where %q is needed", e.Has, e.Want)
}

// Marshal returns the PEM file of a private key.
func Marshal(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: PrivateType, Bytes: der}), err
}

// MarshalPublic returns the PEM file of a public key.
func MarshalPublic(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: PublicType, Bytes: der}), err
}

// Parse reads the private key in the first PEM block.
func Parse(data []byte) (ed25519.PrivateKey, error) {
	der, err := block(data, PrivateType)
	if err != nil {
		return nil, err
	}
	return ParseDER(der)
}

// ParseDER reads a private key in PKCS #8. Another kind of key is a *KindError.
func ParseDER(der []byte) (ed25519.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("PKCS #8: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, &KindError{kindOf(parsed)}
	}
	return key, nil
}

// ParsePublic reads the public key in the first PEM block.
func ParsePublic(data []byte) (ed25519.PublicKey, error) {
	der, err := block(data, PublicType)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("PKIX: %w", err)
	}
	return Public(parsed)
}

// Public returns a public key of package crypto as an Ed25519 key. Another kind is a
// *KindError.
func Public(key any) (ed25519.PublicKey, error) {
	public, ok := key.(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, &KindError{kindOf(key)}
	}
	return public, nil
}

// block returns the bytes of the first PEM block, which must be of one type.
func block(data []byte, want string) ([]byte, error) {
	b, _ := pem.Decode(data)
	if b == nil {
		return nil, errors.New("no PEM block in it")
	}
	if b.Type != want {
		return nil, &TypeError{b.Type, want}
	}
	return b.Bytes, nil
}

// kindOf names the algorithm of a key by the package of its Go type.
func kindOf(key any) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", key), "*")
	if name, _, ok := strings.Cut(kind, "."); ok {
		return strings.ToUpper(name)
	}
	return kind
}
