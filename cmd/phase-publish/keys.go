package main

import (
	"context"
	"crypto/ed25519"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/signer/key"
)

// onlineFlags are the flags of commands that sign snapshot and timestamp.
type onlineFlags struct {
	key, passFile string
	expiry        span
}

func (f *onlineFlags) register(cmd *cobra.Command) {
	f.expiry = span(repo.DefaultTimestampExpiry)
	cmd.Flags().StringVar(&f.key, "online-key", "", "key that signs snapshot and timestamp")
	cmd.Flags().StringVar(&f.passFile, "passphrase-file", "", "read the passphrase from the first line of this file")
	cmd.Flags().Var(&f.expiry, "timestamp-expiry", "how long a timestamp is valid; it bounds how long an attacker can keep machines on an old release")
	require(cmd, "online-key")
}

func (f *onlineFlags) load(ctx context.Context) (repo.OnlineKey, error) {
	warnExposed(f.key, f.passFile)
	k, err := key.Load(ctx, f.key, key.Passphrases(f.passFile))
	if err != nil {
		return repo.OnlineKey{}, err
	}
	return repo.OnlineKey{Signer: k.Signer(), Public: k.Public(), Expiry: time.Duration(f.expiry)}, nil
}

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

// A span is a flag for a duration that people write: 7d, 12h, 1h30m.
type span time.Duration

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > 3650 {
			n = 0
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Minute {
		return cli.Usagef("not a duration of a minute or more; write it as 7d or 12h")
	}
	*s = span(d)
	return nil
}

// String implements pflag.Value.
func (s *span) String() string {
	d := time.Duration(*s)
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return d.String()
}

// Type implements pflag.Value.
func (s *span) Type() string { return "duration" }
