package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher"
)

func newGet() *cobra.Command {
	var o publisher.GetOptions
	cmd := &cobra.Command{
		Use:   "get --store DIR --repo DIR --channel CHANNEL [--release VERSION] --out DIR",
		Short: "Write the files of a release, the published one or an older one",
		Long: `get writes kernel, initramfs, rootfs, dtb/NAME, job/NAME.wasm and the manifest release.json
of a release out of the store, so that it can be looked at, or signed again with phase-sign
release. Every byte is compared with the manifest, and the manifest with the release keys of
the repository, those of earlier roots among them.

A folder never gets files of two releases: get refuses one that holds a file of another. What is
there byte for byte stays as it is. After an error nothing is left of what get wrote.

An older release is there as long as gc has left it: the newest three, or as --keep says.`,
		Example: `  phase-publish get --store store --repo repo --channel stable --out now
  phase-publish get --store store --repo repo --channel stable --release 2026.10 --out old
  phase-publish get --store store --repo repo --channel stable --role kernel --out now`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			got, err := publisher.Get(cmd.Context(), o)
			if err != nil {
				return err
			}
			return cli.Print(cmd, got, gotWords(got))
		},
	}
	cmd.Flags().StringVar(&o.Store, "store", "", "folder of the store")
	cmd.Flags().StringVar(&o.Repo, "repo", "", "folder of the repository")
	cmd.Flags().StringVar(&o.Channel, "channel", "", "channel of the release")
	cmd.Flags().StringVar(&o.Arch, "arch", "", "architecture, where the channel has several")
	cmd.Flags().StringVar(&o.Release, "release", "", "`version` of the release, such as 2026.10 (default: the published one)")
	cmd.Flags().Int64Var(&o.Version, "role-version", 0, "`number` of its manifest, where two releases have one version")
	cmd.Flags().StringVar(&o.Role, "role", "", "one `artifact` alone: kernel, initramfs, rootfs, dtb/NAME or job/NAME.wasm")
	cmd.Flags().StringVar(&o.Out, "out", "", "folder for the files, made when missing")
	require(cmd, "store", "repo", "channel", "out")
	return cmd
}

func gotWords(g publisher.Gotten) string {
	var b strings.Builder
	state := "an older one"
	if g.Published {
		state = "the published one"
	}
	fmt.Fprintf(&b, "%s/%s: release %s, version %d, %s\n", g.Channel, g.Arch, g.Version, g.Number, state)
	for _, f := range g.Files {
		did := "wrote"
		if f.Kept {
			did = "is there already:"
		}
		fmt.Fprintf(&b, "%s %s, %s\n", did, f.Path, size(f.Length))
	}
	fmt.Fprintf(&b, "command line: %s\n", g.Cmdline)
	return b.String()
}
