package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
)

func newPromote() *cobra.Command {
	var (
		spec     = signer.PromoteSpec{Lifetime: releaseLifetime}
		keys     []string
		passFile string
	)
	cmd := &cobra.Command{
		Use:   "promote --repo DIR --from CHANNEL --to CHANNEL --arch ARCH --out FILE [RELEASE.json]",
		Short: "Sign the content of a release of one channel for another channel",
		Long: `promote writes and signs a manifest for channel --to that names the artifacts of a release of
channel --from: the newest in the repository, or RELEASE.json. That release must be signed by
the keys of its channel and not expired. No artifact is read; 'phase-publish add' finds them in
its store.`,
		Example: `  phase-sign promote --repo repo --from testing --to stable --arch x86_64 --key stable.key --out RELEASE.json`,
		Args:    cli.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				spec.File = args[0]
			}
			var err error
			if spec.Keys, err = loadKeys(cmd.Context(), keys, passphrases(passFile)); err != nil {
				return err
			}
			spec.Now = time.Now()
			sum, err := signer.Promote(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return cli.Print(cmd, sum, sum.Words(spec.Now))
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Repo, "repo", "", "repository, as init made it")
	f.StringVar(&spec.From, "from", "", "channel that has the release")
	f.StringVar(&spec.To, "to", "", "channel that gets the release")
	f.StringVar(&spec.Arch, "arch", "", "architecture: x86_64 or arm64")
	f.StringVar(&spec.Out, "out", "", "the release manifest to write")
	f.BoolVar(&spec.Force, "force", false, forceUsage)
	f.StringArrayVar(&keys, "key", nil, "release key of --to to sign with (repeatable)")
	lifetimeFlag(cmd, &spec.Lifetime, "expires", "how long machines accept the release")
	passphraseFlag(cmd, &passFile)
	require(cmd, "repo", "from", "to", "arch", "key", "out")
	return cmd
}
