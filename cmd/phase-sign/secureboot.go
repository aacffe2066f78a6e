package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

// secureBootFlags name the certificate that the machines' firmware has, and the key that signs the
// kernel for it.
type secureBootFlags struct{ key, cert, kernel string }

func (f *secureBootFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cert, "sb-cert", "", "refuse a kernel that machines with this certificate (PEM) in db would not start")
	cmd.Flags().StringVar(&f.key, "sb-key", "", "sign the kernel for Secure Boot with this RSA key: PEM without passphrase, or NAME://… of a KMS")
	cmd.Flags().StringVar(&f.kernel, "sb-kernel", "", "write the signed kernel here")
	cmd.MarkFlagsRequiredTogether("sb-key", "sb-kernel")
	cmd.MarkFlagsMutuallyExclusive("sb-cert", "unchecked")
}

func (f *secureBootFlags) load(ctx context.Context) (signer.SecureBoot, error) {
	sb := signer.SecureBoot{SignedKernel: f.kernel, Warn: func(line string) {
		fmt.Fprintf(os.Stderr, "phase-sign: warning: %s\n", line)
	}}
	var err error
	switch {
	case f.key == "" && f.cert == "":
		return sb, nil
	case f.cert == "":
		return sb, cli.Usagef("--sb-key: needs --sb-cert, the certificate of the key")
	case f.key == "":
		sb.Certificate, err = key.LoadCertificate(f.cert)
		return sb, err
	}
	warnExposed(f.key)
	sb.Signer, err = key.LoadSecureBoot(ctx, f.key, f.cert)
	if err == nil {
		sb.Certificate = sb.Signer.Certificate
	}
	return sb, err
}
