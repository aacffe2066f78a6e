package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher"
)

func newStatus() *cobra.Command {
	var store, repo string
	cmd := &cobra.Command{
		Use:   "status --store DIR --repo DIR",
		Short: "Say what is kept and what is published",
		Long: `status says what the store holds and what the repository publishes, and whether the store
lists every block of it: exit 5 where it does not. It hashes none of them; fsck does.`,
		Example: `  phase-publish status --store store --repo repo`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := publisher.ReadStatus(cmd.Context(), store, repo, time.Now())
			if err != nil {
				return err
			}
			if s.Damage != "" {
				err = publisher.Damaged(store, s.Damage)
			}
			return errors.Join(err, cli.Print(cmd, s, statusWords(s)))
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "folder of the store")
	cmd.Flags().StringVar(&repo, "repo", "", "folder of the repository")
	require(cmd, "store", "repo")
	return cmd
}

func statusWords(s publisher.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "store      %s, %s, %s\n", count(s.Store.Blocks, "block"), size(s.Store.Bytes), count(s.Store.Packs, "pack"))
	fmt.Fprintf(&b, "root       version %d\n", s.Root)
	if s.Head == "" {
		b.WriteString("head       none yet; add a release with phase-publish add\n")
		return b.String()
	}
	fmt.Fprintf(&b, "head       %s\n", s.Head)
	state := "good until"
	if s.Expired {
		state = "EXPIRED at"
	}
	fmt.Fprintf(&b, "timestamp  version %d, %s %s\n", s.Sequence, state, s.Expires.Format(time.RFC3339))
	if s.Expired {
		b.WriteString("           machines refuse it; phase-publish serve signs it again\n")
	}
	for _, r := range s.Channels {
		var total int64
		for _, a := range r.Artifacts {
			total += a.Length
		}
		fmt.Fprintf(&b, "release    %s/%s: %s, version %d, %s in %s, signed %s, good until %s\n",
			r.Channel, r.Arch, r.Version, r.Number, size(total), count(int64(len(r.Artifacts)), "file"), r.SignedAt.Format(time.RFC3339), r.Expires.Format(time.RFC3339))
	}
	if s.Damage != "" {
		fmt.Fprintf(&b, "damage     %s\n", s.Damage)
	}
	if s.Refused != "" {
		fmt.Fprintf(&b, "left out   %s\n", s.Refused)
	}
	if s.Warning != "" {
		fmt.Fprintf(&b, "warning    %s\n", s.Warning)
	}
	return b.String()
}
