package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
)

func newAdd() *cobra.Command {
	var opts ingest.Options
	var online onlineFlags
	cmd := &cobra.Command{
		Use:   "add --store DIR --repo DIR --artifacts DIR --online-key KEY RELEASE.json",
		Short: "Add a signed release to the store and publish it in its channel",
		Long: `add checks the manifest against the repository, compares every artifact with it while the
artifact is written into the store, and then writes the manifest, a new snapshot and, last,
a new timestamp into the repository. A running daemon serves the new release by itself.

add finds the files in the folder of artifacts by length and sha256; their names may differ:
kernel, vmlinuz-6.1, rootfs.squashfs, dtb/board.dtb. --artifacts may be omitted when the
store has every file already, as for a release that was promoted from another channel.
add does not hash blocks that the store has already: fsck finds and repairs damaged ones.

A store may be in an S3-compatible object store. Its keys are in AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY; the endpoint is in the address or in AWS_ENDPOINT_URL, the region in
AWS_REGION.`,
		Example: `  phase-publish add --store store --repo repo --artifacts build --online-key keys/online release.json
  phase-publish add --store 's3://boot/fleet?endpoint=https://s3.example' --repo repo --artifacts build --online-key keys/online release.json`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opts.Manifest, err = cli.ReadMetadata(args[0], "release manifest", manifest.KindRole, "the file that phase-sign release wrote"); err != nil {
				return err
			}
			if opts.Online, err = online.load(cmd.Context()); err != nil {
				return err
			}
			progress := cli.NewProgress(cmd.Context())
			opts.Watch = func(name string, size int64, r io.Reader) ingest.Watched { return progress.Watch(name, size, r) }
			opts.Log = stderrLog()
			added, err := ingest.Add(cmd.Context(), opts)
			progress.Close()
			if err != nil {
				return err
			}
			return cli.Print(cmd, added, addedWords(added))
		},
	}
	cmd.Flags().StringVar(&opts.Store, "store", "", "folder of the store, or s3://BUCKET/PREFIX[?endpoint=URL]; made for the first release, later only in an empty folder")
	cmd.Flags().BoolVar(&opts.NewStore, "new-store", false, "make the store in an object store although the repository has releases")
	cmd.Flags().StringVar(&opts.Repo, "repo", "", "folder of the repository, made by phase-sign init")
	cmd.Flags().StringVar(&opts.Artifacts, "artifacts", "", "folder with the files that were signed (default: the store has them all)")
	cmd.Flags().BoolVar(&opts.IgnoreClock, "ignore-clock", false, "sign although the clock contradicts the dates of what is published")
	online.register(cmd)
	require(cmd, "store", "repo")
	return cmd
}

func addedWords(a ingest.Added) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s: release %s, version %d", a.Channel, a.Arch, a.Release, a.Number)
	if a.Unchanged {
		b.WriteString(", was published already")
	}
	fmt.Fprintf(&b, "\nstored %s in %s; %s in %s were there\n",
		size(a.NewBytes), count(a.NewBlocks, "new block"), size(a.KnownBytes), count(a.KnownBlocks, "block"))
	fmt.Fprintf(&b, "pointer %s, timestamp %d, valid until %s\n", a.Pointer, a.Timestamp, a.Expires)
	return b.String()
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// count is "1 pack" or "2,000 packs".
func count(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return humanize.Comma(n) + " " + what
}
