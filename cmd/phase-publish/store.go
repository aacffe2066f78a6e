package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func newFsck() *cobra.Command {
	var o store.Options
	var repair string
	cmd := &cobra.Command{
		Use:   "fsck --store DIR --repo DIR [--keep N] [--repair URL]",
		Short: "Hash every block of the store, and list faults and the releases that need them",
		Long: `fsck reads every block on all cores and compares its hash with its CID. It also checks that
the newest releases of each channel and architecture are complete: --keep N means those
that gc --keep N kept. It writes nothing, and may run while a daemon serves the store.

With --repair it fetches each lost block from the gateway of a publisher or a mirror, checks
it and writes it where it was. No other process may write to the store meanwhile. fsck exits
5 when faults are left. When no gateway has the blocks, add the releases to an empty folder,
which makes a new store: add does not hash blocks that a store has already.`,
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
			o.Progress = progress.Bytes("fsck")
			checked, err := store.Fsck(cmd.Context(), o)
			progress.Close()
			if err != nil && !errors.Is(err, cas.ErrCorrupt) {
				return err
			}
			return errors.Join(err, cli.Print(cmd, checked, checkedWords(checked)))
		},
	}
	o.Log = stderrLog()
	storeFlags(cmd, &o.Store, &o.Repo)
	cmd.Flags().IntVar(&o.Keep, "keep", store.DefaultKeep, "releases of each channel and architecture that must be complete; 0 is all")
	cmd.Flags().StringVar(&repair, "repair", "", "`URL` of a gateway that has the lost blocks")
	return cmd
}

func checkedWords(c store.Checked) string {
	var b strings.Builder
	for _, l := range c.Found {
		what := "file " + l.File
		if l.CID != "" {
			what = "block " + l.CID
		}
		fmt.Fprintf(&b, "%s: %s%s\n", what, strings.TrimPrefix(l.Cause, what+": "), repaired(c, l))
		for _, r := range l.Releases {
			fmt.Fprintf(&b, "  needed by %s\n", r)
		}
	}
	fmt.Fprintf(&b, "checked %s, %s, in %s, and %s: ", count(c.Blocks, "block"), size(c.Bytes), count(c.Packs, "pack"), count(int64(c.Releases), "release"))
	switch repaired := len(c.Found) - len(c.Left); {
	case len(c.Found) == 0:
		b.WriteString("no faults\n")
	case repaired > 0:
		fmt.Fprintf(&b, "%s, %d repaired\n", count(int64(len(c.Found)), "fault"), repaired)
	default:
		fmt.Fprintf(&b, "%s\n", count(int64(len(c.Found)), "fault"))
	}
	return b.String()
}

// repaired marks a fault that was found and is not left.
func repaired(c store.Checked, l store.Fault) string {
	same := func(k store.Fault) bool { return k.CID == l.CID && (k.CID != "" || k.File == l.File) }
	if slices.ContainsFunc(c.Left, same) {
		return ""
	}
	return " (repaired)"
}

// keepFlags are the flags of gc and stats that say what is kept.
type keepFlags struct{ pins []string }

func (f *keepFlags) register(cmd *cobra.Command, o *store.Options) {
	cmd.Flags().IntVar(&o.Keep, "keep", store.DefaultKeep, "releases of each channel and architecture that are kept")
	cmd.Flags().StringArrayVar(&f.pins, "pin", nil, "`CID` of a file that is kept too (repeatable)")
}

func (f *keepFlags) parse(o *store.Options) error {
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
	o := store.Options{Grace: bucket.DefaultGrace}
	var keep keepFlags
	cmd := &cobra.Command{
		Use:   "gc --store DIR --repo DIR [--keep N] [--pin CID …] [--dry-run]",
		Short: "Remove the blocks that no kept release needs",
		Long: `gc keeps the newest releases of each channel and architecture, and pinned files, and removes
every other block. It does not rewrite packs of which most blocks are needed. A daemon may
serve the store meanwhile; add and gc refuse to run at the same time. stats with the same
--keep and --pin counts what gc may remove; --dry-run reports what gc would do now.

--keep counts contents: a manifest that was signed again, by rollout, hold, renew or a rollback,
has the content of another one, and is kept with it.

In an object store gc writes the needed blocks of such packs into new ones, and a later gc
removes the old packs after --grace, with everything that killed programs left: replicas that
read from the old packs lose nothing.`,
		Example: `  phase-publish gc --store store --repo repo --keep 3
  phase-publish gc --store store --repo repo --keep 1 --dry-run`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keep.parse(&o); err != nil {
				return err
			}
			if cmd.Flags().Changed("grace") && !bucket.Is(o.Store) {
				return cli.Usagef("--grace: is for a store in an object store; gc removes blocks of a folder at once")
			}
			progress := cli.NewProgress(cmd.Context())
			o.Progress = progress.Bytes("gc")
			done, err := store.GC(cmd.Context(), o)
			progress.Close()
			if err != nil {
				return err
			}
			did := "removed"
			if o.Dry {
				did = "would remove"
			}
			text := fmt.Sprintf("%s %s in %s from %s; %s of unneeded blocks remain in packs that are mostly needed\n",
				did, size(done.Bytes), count(done.Blocks, "block"), count(done.Packs, "pack"), size(done.LeftBytes))
			if done.Waiting > 0 {
				text += fmt.Sprintf("old packs of %s remain for the grace of %s; a later gc removes them\n", size(done.Waiting), o.Grace)
			}
			return cli.Print(cmd, done, text)
		},
	}
	o.Log = stderrLog()
	storeFlags(cmd, &o.Store, &o.Repo)
	keep.register(cmd, &o)
	cli.DurationVar(cmd.Flags(), &o.Grace, "grace", maxDays, "how long packs that gc replaced remain in an object store")
	cmd.Flags().BoolVar(&o.Dry, "dry-run", false, "only report what would be removed")
	return cmd
}

func newStats() *cobra.Command {
	var o store.Options
	var keep keepFlags
	cmd := &cobra.Command{
		Use:   "stats --store DIR --repo DIR [--keep N] [--pin CID …]",
		Short: "Count the blocks of each release, what releases share, and what gc may remove",
		Long: `stats has the rule of gc: the newest releases of each channel and architecture are kept, as
--keep says, and pinned files; gc with the same flags may remove the rest.`,
		Example: `  phase-publish stats --store store --repo repo`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keep.parse(&o); err != nil {
				return err
			}
			s, err := store.ReadStats(cmd.Context(), o)
			if err != nil {
				return err
			}
			return cli.Print(cmd, s, statsWords(s))
		},
	}
	o.Log = stderrLog()
	storeFlags(cmd, &o.Store, &o.Repo)
	keep.register(cmd, &o)
	return cmd
}

func statsWords(s store.Stats) string {
	var b strings.Builder
	fmt.Fprintf(&b, "store    %s, %s, %s; gc --keep %d may remove %s\n",
		count(s.Blocks, "block"), size(s.Bytes), count(s.Packs, "pack"), s.Keep, size(s.Wasted))
	for _, r := range s.Releases {
		fmt.Fprintf(&b, "release  %s/%s: %s, version %d, %s, %s, of which %s are shared with others",
			r.Channel, r.Arch, r.Release, r.Version, count(r.Blocks, "block"), size(r.Bytes), size(r.Shared))
		if !r.Complete {
			b.WriteString("; incomplete")
		}
		if !r.Kept {
			b.WriteString("; not kept")
		}
		b.WriteString("\n")
	}
	return b.String()
}
