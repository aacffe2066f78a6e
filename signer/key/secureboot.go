package key

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// LoadSecureBoot opens a key that signs EFI programs for Secure Boot, and its certificate, a PEM file:
// an RSA key in a PEM file without passphrase, or `NAME://…` for a KMS as in Load. The errors are those
// of Load. ctx must stay valid as long as the key is used.
func LoadSecureBoot(ctx context.Context, uri, certificate string) (*authenticode.Signer, error) {
	cert, err := LoadCertificate(certificate)
	if err != nil {
		return nil, err
	}
	k, err := loadRSA(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", uri, err)
	}
	s, err := authenticode.NewSigner(k, cert)
	if err != nil {
		return nil, fmt.Errorf("signing key %s with certificate %s: %w", uri, certificate, err)
	}
	return s, nil
}

// LoadCertificate reads a certificate of Secure Boot, a PEM file.
func LoadCertificate(path string) (*x509.Certificate, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	cert, err := authenticode.ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	return cert, nil
}

func loadRSA(ctx context.Context, uri string) (crypto.Signer, error) {
	switch {
	case isFile(uri):
		data, err := readKeyFile(uri)
		if err != nil {
			return nil, err
		}
		return authenticode.ParseKey(data)
	case strings.HasPrefix(uri, agentScheme):
		return nil, refusal.Invalid("an SSH agent signs no EFI programs; name a PEM file or a KMS")
	}
	sv, public, err := openKMS(ctx, uri)
	if err != nil {
		return nil, err
	}
	return kmsRSA{sv, ctx, public}, nil
}

// kmsRSA lets a plugin program sign a digest. authenticode verifies each signature.
type kmsRSA struct {
	signature.Signer
	ctx    context.Context
	public crypto.PublicKey
}

var _ crypto.Signer = kmsRSA{}

// Public implements crypto.Signer.
func (s kmsRSA) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer.
func (s kmsRSA) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignMessage(strings.NewReader(""), options.WithContext(s.ctx), options.WithDigest(digest), options.WithCryptoSignerOpts(opts))
}
