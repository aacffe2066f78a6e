package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/publisher"
)

// careFlags are those of every verb that looks after a store.
func careFlags(cmd *cobra.Command, o *publisher.CareOptions) {
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	cmd.Flags().StringVar(&o.Store, "store", "", "folder of the store")
	cmd.Flags().StringVar(&o.Repo, "repo", "", "folder of the repository whose releases it holds")
	require(cmd, "store", "repo")
}

func newFsck() *cobra.Command {
	var o publisher.CareOptions
	var repair string
	cmd := &cobra.Command{
		Use:   "fsck --store DIR --repo DIR [--keep N] [--repair URL]",
		Short: "Hash everything in the store, and name what is damaged and which releases it hurts",
		Long: `fsck reads every block on all cores and compares it with its name, and looks whether
the newest releases of each channel and architecture are whole: --keep N means those that
gc --keep N leaves. It writes nothing, and may run beside a daemon.

With --repair it asks the gateway of a publisher or a mirror for each lost block, checks
it and puts it where it was. That needs the store for itself. What is left exits 5; where
nobody else has it, add the releases to an empty folder, which makes a new store: add does
not hash what is there already.`,
		Example: `  phase-publish fsck --store store --repo repo
  phase-publish fsck --store store --repo repo --repair https://mirror.example`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repair != "" {
				if err := bootargs.CheckMirror(repair); err != nil {
					return cli.Usagef("--repair: %v", err)
				}
				o.Peer = &gateway.Client{Base: repair, Redirects: true}
			}
			progress := cli.NewProgress(cmd.Context())
			defer progress.Close()
			o.Progress = progress.Bytes("fsck")
			checked, err := publisher.Fsck(cmd.Context(), o)
			progress.Close()
			if err != nil && !errors.Is(err, cas.ErrCorrupt) {
				return err
			}
			return errors.Join(err, cli.Print(cmd, checked, checkedWords(checked)))
		},
	}
	careFlags(cmd, &o)
	cmd.Flags().IntVar(&o.Keep, "keep", publisher.KeepReleases, "releases of each channel and architecture that must be whole; 0 is all")
	cmd.Flags().StringVar(&repair, "repair", "", "URL of a gateway that lost blocks are asked of")
	return cmd
}

func checkedWords(c publisher.Checked) string {
	var b strings.Builder
	for _, l := range c.Found {
		what := "file " + l.File
		if l.CID != "" {
			what = "block " + l.CID
		}
		fmt.Fprintf(&b, "%s: %s%s\n", what, strings.TrimPrefix(l.Cause, what+": "), mended(c, l))
		for _, r := range l.Releases {
			fmt.Fprintf(&b, "  needed by %s\n", r)
		}
	}
	fmt.Fprintf(&b, "checked %s, %s, in %s, and %s: ", count(c.Blocks, "block"), size(c.Bytes), count(c.Packs, "pack"), count(int64(c.Releases), "release"))
	switch mended := len(c.Found) - len(c.Left); {
	case len(c.Found) == 0:
		b.WriteString("all sound\n")
	case mended > 0:
		fmt.Fprintf(&b, "%s, %d mended\n", count(int64(len(c.Found)), "fault"), mended)
	default:
		fmt.Fprintf(&b, "%s\n", count(int64(len(c.Found)), "fault"))
	}
	return b.String()
}

// mended says so of what was found and is not left.
func mended(c publisher.Checked, l publisher.Lost) string {
	same := func(k publisher.Lost) bool { return k.CID == l.CID && (k.CID != "" || k.File == l.File) }
	if slices.ContainsFunc(c.Left, same) {
		return ""
	}
	return " (mended)"
}

// keepFlags are those of gc and of stats: what stays.
type keepFlags struct{ pins []string }

func (f *keepFlags) register(cmd *cobra.Command, o *publisher.CareOptions) {
	cmd.Flags().IntVar(&o.Keep, "keep", publisher.KeepReleases, "releases of each channel and architecture that stay")
	cmd.Flags().StringArrayVar(&f.pins, "pin", nil, "CID of a file that stays too; may be repeated")
}

func (f *keepFlags) parse(o *publisher.CareOptions) error {
	for _, pin := range f.pins {
		c, err := cas.ParseCID(pin)
		if err != nil {
			return cli.Usagef("--pin: %v", err)
		}
		o.Pins = append(o.Pins, c)
	}
	return nil
}

func newGC() *cobra.Command {
	var o publisher.CareOptions
	var keep keepFlags
	cmd := &cobra.Command{
		Use:   "gc --store DIR --repo DIR [--keep N] [--pin CID …] [--dry-run]",
		Short: "Remove the blocks that no kept release needs",
		Long: `gc keeps the newest releases of each channel and architecture, and the files that are
pinned, and removes every other block. Packs that are mostly wanted stay as they are. A
daemon may serve the store meanwhile; add and gc refuse to run beside each other. stats with
the same --keep and --pin counts what gc may remove; --dry-run says what it would do now.`,
		Example: `  phase-publish gc --store store --repo repo --keep 3
  phase-publish gc --store store --repo repo --keep 1 --dry-run`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keep.parse(&o); err != nil {
				return err
			}
			progress := cli.NewProgress(cmd.Context())
			defer progress.Close()
			o.Progress = progress.Bytes("gc")
			done, err := publisher.Collect(cmd.Context(), o)
			progress.Close()
			if err != nil {
				return err
			}
			did := "removed"
			if o.Dry {
				did = "would remove"
			}
			return cli.Print(cmd, done, fmt.Sprintf("%s %s in %s from %s; %s that nobody needs left in packs that are mostly needed\n",
				did, size(done.Bytes), count(done.Blocks, "block"), count(done.Packs, "pack"), size(done.LeftBytes)))
		},
	}
	careFlags(cmd, &o)
	keep.register(cmd, &o)
	cmd.Flags().BoolVar(&o.Dry, "dry-run", false, "only say what would be removed")
	return cmd
}

func newStats() *cobra.Command {
	var o publisher.CareOptions
	var keep keepFlags
	cmd := &cobra.Command{
		Use:   "stats --store DIR --repo DIR [--keep N] [--pin CID …]",
		Short: "Say what the store holds for which release, what they share, and what gc may remove",
		Long: `stats counts by the rule of gc: the newest releases of each channel and architecture stay,
as --keep says, and so do pinned files; the rest is what gc with the same flags may remove.`,
		Example: `  phase-publish stats --store store --repo repo`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keep.parse(&o); err != nil {
				return err
			}
			s, err := publisher.ReadStoreStats(cmd.Context(), o)
			if err != nil {
				return err
			}
			return cli.Print(cmd, s, statsWords(s))
		},
	}
	careFlags(cmd, &o)
	keep.register(cmd, &o)
	return cmd
}

func statsWords(s publisher.StoreStats) string {
	var b strings.Builder
	fmt.Fprintf(&b, "store    %s, %s, %s; gc --keep %d may remove %s\n",
		count(s.Blocks, "block"), size(s.Bytes), count(s.Packs, "pack"), s.Keep, size(s.Wasted))
	for _, r := range s.Releases {
		fmt.Fprintf(&b, "release  %s/%s: %s, version %d, %s, %s, of which %s are shared with others",
			r.Channel, r.Arch, r.Release, r.Version, count(r.Blocks, "block"), size(r.Bytes), size(r.Shared))
		if !r.Whole {
			b.WriteString("; not whole")
		}
		if !r.Kept {
			b.WriteString("; not kept")
		}
		b.WriteString("\n")
	}
	return b.String()
}
