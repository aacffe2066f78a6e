package main

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/internal/vault"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{
		"phase-sign":        func() int { return cli.Main(newCommand()) },
		"sigstore-kms-file": filePlugin,
		"boot-machines": func() int {
			if err := bootMachines(os.Args[1:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return 0
		},
		"sigstore-kms-hashivault": func() int { return vault.Plugin(os.Args, os.Stdin, os.Stdout) },
	})
}

func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }

// filePlugin is a KMS plugin program as sigstore's protocol has it. Its keys are plain
// PEM files, named file://PATH.
func filePlugin() int {
	args, err := handler.GetPluginArgs(os.Args)
	if err == nil {
		var key fileKey
		if key, err = openFileKey(args.InitOptions.KeyResourceID); err == nil {
			_, err = handler.Dispatch(os.Stdout, os.Stdin, args, key)
		}
	}
	if err == nil {
		return 0
	}
	if werr := handler.WriteErrorResponse(os.Stdout, err); werr != nil {
		fmt.Fprintln(os.Stderr, werr)
	}
	return 1
}

type fileKey struct{ signature.SignerVerifier }

func openFileKey(path string) (fileKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return fileKey{}, err
	}
	var private crypto.PrivateKey
	if private, err = ed25519pem.Parse(data); err != nil { // RSA, for Secure Boot
		private, err = cryptoutils.UnmarshalPEMToPrivateKey(data, nil)
	}
	if err != nil {
		return fileKey{}, err
	}
	sv, err := signature.LoadSignerVerifier(private, crypto.SHA256)
	return fileKey{sv}, err
}

func (fileKey) DefaultAlgorithm() string      { return "ed25519" }
func (fileKey) SupportedAlgorithms() []string { return []string{"ed25519"} }

func (fileKey) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, fmt.Errorf("keys are made with phase-sign key generate")
}

func (k fileKey) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, fmt.Errorf("this plugin signs messages only")
}
