package signer

import (
	"bytes"
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
)

// kmsSigner binds a plugin's calls to the context of the command, and its signatures to
// the public key that it named first: each call is a process, and sees the KMS as it is then.
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
		err = errors.New("KMS plugin: the signature does not verify; has the key changed? try again")
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

// loadKMS finds the plugin program of the URI's scheme in PATH and asks it for the
// public key. The network and cloud SDKs stay in the plugins.
func loadKMS(ctx context.Context, uri string) (Key, error) {
	// SHA-256 is only named to the plugin, as its protocol demands; Ed25519 signs
	// the message itself.
	sv, err := cliplugin.LoadSignerVerifier(ctx, uri, crypto.SHA256)
	if errors.Is(err, exec.ErrNotFound) {
		name := cliplugin.PluginBinaryPrefix + scheme.FindStringSubmatch(uri)[1]
		return Key{}, because(fs.ErrNotExist, "the plugin program %s is not in PATH; install it", name)
	}
	if err != nil {
		return Key{}, err
	}
	s := kmsSigner{Signer: sv, ctx: ctx}
	public, err := s.PublicKey()
	if err != nil {
		return Key{}, fmt.Errorf("KMS plugin: %w", firstErr(ctx.Err(), err))
	}
	if s.public, err = onlyEd25519(public); err != nil {
		return Key{}, err
	}
	return Key{signer: s, public: s.public}, nil
}
