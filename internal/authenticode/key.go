package authenticode

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// KeyBits is the length of an RSA key that all firmware knows, and the shortest that is accepted.
const KeyBits = 2048

// ParseKey reads an RSA key in PEM.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("not a PEM file: %w", cas.ErrCorrupt)
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, refusal.Invalid("encrypted; decrypt it with: openssl pkey -in KEY -out KEY.plain")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	private, isRSA := parsed.(*rsa.PrivateKey)
	if err != nil || !isRSA {
		return nil, refusal.Invalid("not an RSA key of at least %d bits; firmware knows no other kind everywhere", KeyBits)
	}
	return private, nil
}

// ParseCertificate reads a certificate in PEM.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("not a PEM file: %w", cas.ErrCorrupt)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	return cert, nil
}

// NewSigner refuses a key that firmware may not know, and the certificate of another key.
func NewSigner(key crypto.Signer, cert *x509.Certificate) (*Signer, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok || public.N.BitLen() < KeyBits {
		return nil, refusal.Invalid("not an RSA key of at least %d bits; firmware knows no other kind everywhere", KeyBits)
	}
	if !public.Equal(cert.PublicKey) {
		return nil, refusal.Invalid("the certificate is of another key")
	}
	return &Signer{Key: key, Certificate: cert}, nil
}
