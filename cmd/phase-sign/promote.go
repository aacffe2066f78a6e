package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
)

func newPromote() *cobra.Command {
	var spec signer.PromoteSpec
	m := manifestFlags{spec: &spec.ManifestSpec}
	cmd := &cobra.Command{
		Use:   "promote --repo DIR --from CHANNEL --to CHANNEL --arch ARCH --out FILE [RELEASE.json]",
		Short: "Sign the content of a release of one channel for another channel",
		Long: `promote writes and signs a manifest for channel --to that names the artifacts of a release of
channel --from: the newest in the repository, or RELEASE.json. That release must be signed by
the keys of its channel and not expired. If 0% has stopped the newest one, RELEASE.json must name the
release. No artifact is read; 'phase-publish add' finds them in its store. The submitters of the release are those of the new manifest too, unless --submitter is
given.`,
		Example: `  phase-sign promote --repo repo --from testing --to stable --arch x86_64 --key stable.key --out RELEASE.json`,
		Args:    cli.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				spec.File = args[0]
			}
			return m.sign(cmd, func(ctx context.Context) (signer.Summary, error) { return signer.Promote(ctx, spec) })
		},
	}
	m.define(cmd, "release key of --to to sign with (repeatable)", newSubmitterUsage)
	m.rollout.defineHold(cmd)
	cmd.Flags().StringVar(&spec.From, "from", "", "channel that has the release")
	cmd.Flags().StringVar(&spec.Channel, "to", "", "channel that gets the release")
	require(cmd, "repo", "from", "to", "arch", "key", "out")
	return cmd
}
