package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func newGet() *cobra.Command {
	var o store.GetOptions
	cmd := &cobra.Command{
		Use:   "get --store DIR --repo DIR --channel CHANNEL [--release VERSION] --out DIR",
		Short: "Write the files of a release, the published one or an older one",
		Long: `get writes kernel, initramfs, rootfs, dtb/NAME, job/NAME.wasm, boot/NAME and the manifest release.json
of a release from the store into a folder, to be inspected, or signed again with phase-sign
release. It compares every byte with the manifest, and the manifest's signatures with the
release keys of the repository, those of earlier roots included.

A folder never gets files of two releases: get refuses a folder with a file of another
release. It does not write files that are there with the same content. After an error it
removes what it wrote.

An older release is available until gc removes it: gc keeps three, or as many as --keep says.`,
		Example: `  phase-publish get --store store --repo repo --channel stable --out now
  phase-publish get --store store --repo repo --channel stable --release 2026.10 --out old
  phase-publish get --store store --repo repo --channel stable --role kernel --out now`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = stderrLog()
			got, err := store.Get(cmd.Context(), o)
			if err != nil {
				return err
			}
			return cli.Print(cmd, got, gotWords(got))
		},
	}
	storeFlags(cmd, &o.Store, &o.Repo)
	cmd.Flags().StringVar(&o.Channel, "channel", "", "channel of the release")
	cmd.Flags().StringVar(&o.Arch, "arch", "", "architecture, where the channel has several")
	cmd.Flags().StringVar(&o.Release, "release", "", "`version` of the release, such as 2026.10 (default: the published one)")
	cmd.Flags().Int64Var(&o.Version, "role-version", 0, "`number` of its manifest, where two releases have one version")
	cmd.Flags().StringVar(&o.Role, "role", "", "one `artifact` alone: kernel, initramfs, rootfs, dtb/NAME, job/NAME.wasm, boot/kernel or boot/initramfs")
	cmd.Flags().StringVar(&o.Out, "out", "", "folder for the files, made when missing")
	require(cmd, "channel", "out")
	return cmd
}

func gotWords(g store.Got) string {
	var b strings.Builder
	state := "older"
	if g.Published {
		state = "published"
	}
	fmt.Fprintf(&b, "%s/%s: release %s, version %d, %s\n", g.Channel, g.Arch, g.Version, g.Number, state)
	for _, f := range g.Files {
		did := "wrote"
		if f.Kept {
			did = "kept"
		}
		fmt.Fprintf(&b, "%s %s, %s\n", did, f.Path, size(f.Length))
	}
	fmt.Fprintf(&b, "command line: %s\n", g.Cmdline)
	return b.String()
}
