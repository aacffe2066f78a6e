package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

// initFlags are the flags of init: those that name keys, and the spec with the others.
type initFlags struct {
	spec                   signer.InitSpec
	root, release          []string
	online, ipns, passFile string
}

func newInit() *cobra.Command {
	f := initFlags{spec: signer.InitSpec{RootLifetime: rootLifetime, TargetsLifetime: rootLifetime}}
	cmd := &cobra.Command{
		Use:   "init --repo DIR",
		Short: "Create a repository: 1.root.json, 1.targets.json and root.json",
		Long: `init writes which keys may sign what, and where machines find releases. A key is given as private
key or as .pub file. A root key that is given as .pub file has to sign afterwards, with
'phase-sign add'. --channel and --arch may be repeated: each pair gets its own delegation to the
release keys.`,
		Example: `  phase-sign init --repo repo --root-key keys/root --release-key keys/release.pub \
    --online-key keys/online.pub --ipns-key keys/ipns.pub --channel stable --arch x86_64
  phase-sign init --repo repo --root-key a.key --root-key b.key.pub --root-key c.key.pub --root-threshold 2 \
    --release-key r1.pub --release-key r2.pub --release-threshold 2 --online-key keys/online.pub \
    --ipns-key keys/ipns.pub --channel stable --arch x86_64 --https https://releases.example.org`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.load(cmd.Context()); err != nil {
				return err
			}
			result, err := signer.Init(cmd.Context(), f.spec)
			if err != nil {
				return err
			}
			return cli.Print(cmd, result, result.Words())
		},
	}
	f.define(cmd)
	require(cmd, "repo", "root-key", "release-key", "online-key", "ipns-key", "channel", "arch")
	return cmd
}

func (f *initFlags) define(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Dir, "repo", "", "folder to make")
	fl.StringArrayVar(&f.root, "root-key", nil, "key that signs roots (repeatable)")
	fl.IntVar(&f.spec.RootThreshold, "root-threshold", 1, "how many root keys must sign")
	fl.StringArrayVar(&f.release, "release-key", nil, "key that signs releases (repeatable)")
	fl.IntVar(&f.spec.ReleaseThreshold, "release-threshold", 1, "how many release keys must sign")
	fl.StringVar(&f.online, "online-key", "", "key of the publisher, which signs snapshot and timestamp")
	fl.StringVar(&f.ipns, "ipns-key", "", "key of the IPNS name that points to the newest metadata")
	fl.StringArrayVar(&f.spec.Channels, "channel", nil, "channel, for example stable (repeatable)")
	fl.StringArrayVar(&f.spec.Archs, "arch", nil, "architecture: x86_64 or arm64 (repeatable)")
	fl.StringArrayVar(&f.spec.HTTPS, "https", nil, "URL of a mirror (repeatable)")
	fl.StringArrayVar(&f.spec.Bootstrap, "bootstrap", nil, "multiaddr with /p2p/ID of a first DHT peer (repeatable)")
	fl.StringVar(&f.spec.DHTPrefix, "dht-prefix", "", "protocol prefix of the private DHT (default /phaseboot/<IPNS name>)")
	lifetimeFlag(cmd, &f.spec.RootLifetime, "root-expires", "how long the root is valid")
	lifetimeFlag(cmd, &f.spec.TargetsLifetime, "targets-expires", "how long the delegations are valid")
	passphraseFlag(cmd, &f.passFile)
}

// load opens the keys that the flags name.
func (f *initFlags) load(ctx context.Context) (err error) {
	pass := passphrases(f.passFile)
	f.spec.Now = time.Now()
	warnExposed(f.root...)
	if f.spec.Root, err = loadAll(ctx, f.root, pass, key.LoadListed); err != nil {
		return err
	}
	if f.spec.Release, err = loadAll(ctx, f.release, pass, key.LoadPublic); err != nil {
		return err
	}
	if f.spec.Online, err = key.LoadPublic(ctx, f.online, pass); err != nil {
		return err
	}
	f.spec.IPNS, err = key.LoadPublic(ctx, f.ipns, pass)
	return err
}
