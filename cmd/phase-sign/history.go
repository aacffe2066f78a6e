package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
)

func newHistory() *cobra.Command {
	var spec signer.HistorySpec
	cmd := &cobra.Command{
		Use:   "history --repo DIR --channel CHANNEL --arch ARCH",
		Short: "List the releases of a channel, oldest first",
		Long: `history lists the release manifests in the repository: number, version, dates, how many of the
keys that the channel lists now have signed, which releases have the same content, and which
machines take them. It does not check expiry.`,
		Example: `  phase-sign history --repo repo --channel stable --arch x86_64`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := signer.History(spec)
			if err != nil {
				return err
			}
			return cli.Print(cmd, struct {
				Releases []signer.Past `json:"releases"`
			}{list}, signer.HistoryWords(list, time.Now()))
		},
	}
	cmd.Flags().StringVar(&spec.Repo, "repo", "", "repository, as init made it")
	cmd.Flags().StringVar(&spec.Channel, "channel", "", "channel")
	cmd.Flags().StringVar(&spec.Arch, "arch", "", "architecture: x86_64 or arm64")
	require(cmd, "repo", "channel", "arch")
	return cmd
}

func newChannels() *cobra.Command {
	var repo string
	cmd := &cobra.Command{
		Use:     "channels --repo DIR",
		Short:   "List the channels of a repository, their keys and their newest release",
		Example: `  phase-sign channels --repo repo`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := signer.Channels(repo)
			if err != nil {
				return err
			}
			return cli.Print(cmd, struct {
				Channels []signer.Channel `json:"channels"`
			}{list}, signer.ChannelWords(list, time.Now()))
		},
	}
	cmd.Flags().StringVar(&repo, "repo", "", "repository, as init made it")
	require(cmd, "repo")
	return cmd
}

func newRollback() *cobra.Command {
	var spec signer.RollbackSpec
	m := manifestFlags{spec: &spec.ManifestSpec}
	cmd := &cobra.Command{
		Use:   "rollback --repo DIR --channel CHANNEL --arch ARCH --out FILE",
		Short: "Replace a bad release: sign an older one again, as the newest",
		Long: `rollback writes and signs a manifest with the next version and the content of an older release of
the channel: the last one with other content than the newest that was for every machine, or the one
that --to names. A release that 0% stopped, or that only some machines took, needs --to. Machines refuse
a lower version, so a new version replaces the bad release. No artifact is read;
'phase-publish add' finds them in its store, if gc has kept them. The submitters are those of the old
release too: if one of them lost its right since then, name the others with --submitter.`,
		Example: `  phase-sign rollback --repo repo --channel stable --arch x86_64 --key keys/release --out RELEASE.json
  phase-sign rollback --repo repo --channel stable --arch x86_64 --to 2026.10 --key keys/release --out RELEASE.json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.sign(cmd, func(ctx context.Context) (signer.Summary, error) { return signer.Rollback(ctx, spec) })
		},
	}
	m.define(cmd, releaseKeyUsage, newSubmitterUsage)
	m.rollout.defineHold(cmd)
	cmd.Flags().StringVar(&spec.Channel, "channel", "", "channel")
	cmd.Flags().StringVar(&spec.To, "to", "", "version string of the release to go back to (default: the last one for every machine with other content than the newest)")
	require(cmd, "repo", "channel", "arch", "key", "out")
	return cmd
}
