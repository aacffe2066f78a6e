package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// kmsSigner binds a plugin's calls to the context of the command.
type kmsSigner struct {
	signature.Signer
	ctx context.Context
}

// SignMessage implements signature.Signer.
func (s kmsSigner) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	return s.Signer.SignMessage(message, append(opts, options.WithContext(s.ctx))...)
}

// PublicKey implements signature.Signer.
func (s kmsSigner) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.Signer.PublicKey(append(opts, options.WithContext(s.ctx))...)
}

// loadKMS finds the plugin program of the URI's scheme in PATH and asks it for the
// public key. Cloud SDKs stay out of this module; they live in the plugins.
func loadKMS(ctx context.Context, uri string) (Key, error) {
	// SHA-256 is only named to the plugin, as its protocol demands; Ed25519 signs
	// the message itself.
	sv, err := cliplugin.LoadSignerVerifier(ctx, uri, crypto.SHA256)
	if errors.Is(err, exec.ErrNotFound) {
		name := cliplugin.PluginBinaryPrefix + scheme.FindStringSubmatch(uri)[1]
		return Key{}, fmt.Errorf("the plugin program %s is not in PATH; install it: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return Key{}, err
	}
	s := kmsSigner{sv, ctx}
	public, err := s.PublicKey()
	if err != nil {
		return Key{}, fmt.Errorf("KMS plugin: %w", firstErr(ctx.Err(), err))
	}
	key, err := onlyEd25519(public)
	if err != nil {
		return Key{}, err
	}
	return Key{signer: s, public: key}, nil
}
