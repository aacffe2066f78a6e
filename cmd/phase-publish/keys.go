package main

import (
	"context"
	"crypto/ed25519"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/signer/key"
)

// onlineFlags are the flags of commands that sign snapshot and timestamp.
type onlineFlags struct {
	key, passFile string
	expiry        time.Duration
}

func (f *onlineFlags) register(cmd *cobra.Command) {
	f.flags(cmd)
	require(cmd, "online-key")
}

// flags is register without a flag that is required.
func (f *onlineFlags) flags(cmd *cobra.Command) {
	f.expiry = repo.DefaultTimestampExpiry
	cmd.Flags().StringVar(&f.key, "online-key", "", "key that signs snapshot and timestamp")
	cmd.Flags().StringVar(&f.passFile, "passphrase-file", "", "read the passphrase from the first line of this file")
	cli.DurationVar(cmd.Flags(), &f.expiry, "timestamp-expiry", maxDays, "how long a timestamp is valid; it bounds how long an attacker can keep machines on an old release")
}

func (f *onlineFlags) load(ctx context.Context) (repo.OnlineKey, error) {
	warnExposed(f.key, f.passFile)
	k, err := key.Load(ctx, f.key, key.Passphrases(f.passFile))
	if err != nil {
		return repo.OnlineKey{}, err
	}
	return repo.OnlineKey{Signer: k.Signer(), Public: k.Public(), Expiry: f.expiry}, nil
}

// maxDays is the greatest value of a flag in days.
const maxDays = 3650

// warnExposed warns of key and passphrase files that other users have access to.
func warnExposed(files ...string) {
	if err := key.CheckExposed(files...); err != nil {
		stderrLog().Warn("key file not protected", "cause", err)
	}
}

// loadIPNS loads the key of the channel's IPNS name. libp2p signs records with the private
// key itself, so a key that only signs (an agent, a KMS) is refused.
func loadIPNS(ctx context.Context, uri, passFile string) (ed25519.PrivateKey, error) {
	k, err := key.Load(ctx, uri, key.Passphrases(passFile))
	if err != nil {
		return nil, err
	}
	return k.Private()
}
