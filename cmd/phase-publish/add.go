package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher"
)

func newAdd() *cobra.Command {
	var opts publisher.AddOptions
	var online onlineFlags
	cmd := &cobra.Command{
		Use:   "add --store DIR --repo DIR --artifacts DIR --online-key KEY RELEASE.json",
		Short: "Check a signed release, keep its files and make it the head of its channel",
		Long: `add compares every artifact with the signed manifest while it goes into the store,
and writes the manifest, a new snapshot and a new timestamp into the repository, the
timestamp last. A daemon that serves the repository picks the new head up by itself.

In the folder of artifacts each file is known by its length and sha256, whatever its name:
kernel, vmlinuz-6.1, rootfs.squashfs, dtb/board.dtb. The folder may be left out when the
store has every file already, as for a release that was promoted from another channel. With
it, blocks that the store lists are left as they are, whole or not: fsck mends them.`,
		Example: `  phase-publish add --store store --repo repo --artifacts build --online-key online.key release.json`,
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opts.Manifest, err = cli.ReadMetadata(args[0], "release manifest", manifest.KindRole, "the file that phase-sign release wrote"); err != nil {
				return err
			}
			if opts.Online, err = online.load(cmd.Context()); err != nil {
				return err
			}
			added, err := addWithProgress(cmd.Context(), opts)
			if err != nil {
				return err
			}
			return cli.Print(cmd, added, addedWords(added))
		},
	}
	cmd.Flags().StringVar(&opts.Store, "store", "", "folder of the store, made with the first release; later an empty folder makes a new one")
	cmd.Flags().StringVar(&opts.Repo, "repo", "", "folder that phase-sign init made")
	cmd.Flags().StringVar(&opts.Artifacts, "artifacts", "", "folder with the files that were signed (default: the store has them all)")
	cmd.Flags().BoolVar(&opts.IgnoreClock, "ignore-clock", false, "sign although the clock contradicts the dates of what is published")
	online.register(cmd)
	require(cmd, "store", "repo")
	return cmd
}

func addWithProgress(ctx context.Context, opts publisher.AddOptions) (publisher.Added, error) {
	progress := cli.NewProgress(ctx)
	defer progress.Close()
	opts.Watch = func(name string, size int64, r io.Reader) publisher.Watched { return progress.Watch(name, size, r) }
	opts.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return publisher.Add(ctx, opts)
}

func addedWords(a publisher.Added) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s: release %s, version %d", a.Channel, a.Arch, a.Release, a.Number)
	if a.Unchanged {
		b.WriteString(" was published already")
	}
	fmt.Fprintf(&b, "\nstored %s in %s; %s in %s there already\n",
		size(a.NewBytes), count(a.NewBlocks, "new block"), size(a.KnownBytes), count(a.KnownBlocks, "block"))
	fmt.Fprintf(&b, "head %s, timestamp %d, good until %s\n", a.Head, a.Timestamp, a.Expires)
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
