package vault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

// algorithm is the name of the accepted type of key, in Vault and in sigstore's protocol.
const algorithm = "ed25519"

// maxMessage is the greatest size of a message, in bytes. Vault accepts requests of 32 MiB, and
// base64 makes four bytes of three.
const maxMessage = 16 << 20

// Plugin is sigstore's KMS plugin program for hashivault://NAME. args are the arguments of the
// process, its own name first: they have one call. It answers the call and returns the exit code.
func Plugin(args []string, stdin io.Reader, stdout io.Writer) int {
	err := answer(args, stdin, stdout)
	if err == nil {
		return 0
	}
	if err := handler.WriteErrorResponse(stdout, err); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// answer executes the call in args.
func answer(args []string, stdin io.Reader, stdout io.Writer) error {
	call, err := handler.GetPluginArgs(args)
	if err == nil && (call.InitOptions == nil || call.MethodArgs == nil) {
		err = errors.New("a call without method or key")
	}
	if err != nil {
		return fmt.Errorf("this program is run by 'phase-sign --key hashivault://NAME', not by hand: %w", err)
	}
	ctx := context.Background() // the caller ends this process
	k, err := load(ctx, call.InitOptions.KeyResourceID)
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(stdout, stdin, call, plugin{ctx, k})
	return err
}

// plugin implements the methods of sigstore's protocol with a key.
type plugin struct {
	ctx context.Context // of the call
	key *key
}

func (p plugin) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return p.key.public, nil
}

func (p plugin) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	data, err := read(message)
	if err != nil {
		return nil, err
	}
	return p.key.sign(p.ctx, data)
}

func (p plugin) VerifySignature(sig, message io.Reader, _ ...signature.VerifyOption) error {
	s, err := read(sig)
	if err != nil {
		return err
	}
	data, err := read(message)
	if err == nil && !ed25519.Verify(p.key.public, data, s) {
		err = errors.New("wrong signature")
	}
	return err
}

func (plugin) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("this plugin makes no keys; " + makeKey)
}

func (plugin) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("this plugin signs messages only")
}

func (plugin) DefaultAlgorithm() string      { return algorithm }
func (plugin) SupportedAlgorithms() []string { return []string{algorithm} }

// read reads a message of at most maxMessage bytes.
func read(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	if n, err := b.ReadFrom(io.LimitReader(r, maxMessage+1)); err != nil || n <= maxMessage {
		return b.Bytes(), err
	}
	return nil, fmt.Errorf("a message of more than %d bytes", maxMessage)
}
