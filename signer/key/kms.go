package key

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// kmsSigner runs the plugin program for each call, with the context of the command. Each call
// is a new process that reads the KMS again, so each signature is verified with the public key
// that the first call returned.
type kmsSigner struct {
	signature.Signer
	ctx    context.Context
	public ed25519.PublicKey
}

// SignMessage implements signature.Signer.
func (s kmsSigner) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	sig, err := s.Signer.SignMessage(bytes.NewReader(data), append(opts, options.WithContext(s.ctx))...)
	if err == nil && !ed25519.Verify(s.public, data, sig) {
		err = errors.New("KMS plugin: wrong signature; has the key changed? try again")
	}
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// PublicKey implements signature.Signer.
func (s kmsSigner) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.Signer.PublicKey(append(opts, options.WithContext(s.ctx))...)
}

// loadKMS opens an Ed25519 key of a KMS.
func loadKMS(ctx context.Context, uri string) (Key, error) {
	sv, key, err := openKMS(ctx, uri)
	if err != nil {
		return Key{}, err
	}
	s := kmsSigner{Signer: sv, ctx: ctx}
	if s.public, err = ed25519pem.Public(key); err != nil {
		return Key{}, onlyEd25519(err)
	}
	return Key{signer: s, public: s.public}, nil
}

// openKMS finds the plugin program of the URI's scheme in PATH and reads the public key through
// it. Network access and cloud SDKs are in the plugins only.
func openKMS(ctx context.Context, uri string) (signature.Signer, crypto.PublicKey, error) {
	// The plugin protocol requires a hash function. Ed25519 does not use it: it signs the
	// message itself.
	sv, err := cliplugin.LoadSignerVerifier(ctx, uri, crypto.SHA256)
	if errors.Is(err, exec.ErrNotFound) {
		name := cliplugin.PluginBinaryPrefix + scheme.FindStringSubmatch(uri)[1]
		return nil, nil, refusal.New(fs.ErrNotExist, "the plugin program %s is not in PATH; install it", name)
	}
	if err != nil {
		return nil, nil, err
	}
	key, err := sv.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("KMS plugin: %w", cmp.Or(ctx.Err(), err))
	}
	return sv, key, nil
}
