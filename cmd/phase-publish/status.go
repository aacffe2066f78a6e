package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func newStatus() *cobra.Command {
	var opts store.StatusOptions
	cmd := &cobra.Command{
		Use:   "status --store DIR --repo DIR",
		Short: "Report what is stored and published, and what machines do with it",
		Long: `status reports what the store contains and what the repository publishes. It runs the check
of the machines over the metadata, and reports until when they accept what is published.

It exits 3 when machines refuse a release, for example because it has expired, or when the
clock contradicts the dates of what is published, and 5 when the store does not list every
block of a published release. It hashes no block; fsck does.`,
		Example: `  phase-publish status --store store --repo repo`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := store.ReadStatus(cmd.Context(), opts)
			if err != nil {
				return err
			}
			return errors.Join(s.Err(), cli.Print(cmd, s, statusWords(s)))
		},
	}
	storeFlags(cmd, &opts.Store, &opts.Repo)
	cmd.Flags().BoolVar(&opts.IgnoreClock, "ignore-clock", false, "a clock that contradicts what is published is no error")
	return cmd
}

func statusWords(s store.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "store      %s, %s, %s\n", count(s.Store.Blocks, "block"), size(s.Store.Bytes), count(s.Store.Packs, "pack"))
	fmt.Fprintf(&b, "root       version %d\n", s.Root)
	if s.Pointer == "" {
		b.WriteString("pointer    none yet; add a release with phase-publish add\n")
		return b.String()
	}
	fmt.Fprintf(&b, "pointer    %s\n", s.Pointer)
	fmt.Fprintf(&b, "timestamp  version %d, %s\n", s.Sequence, validUntil(s.Expires, !time.Now().Before(s.Expires)))
	for _, r := range s.Releases {
		b.WriteString(releaseWords(s, r))
	}
	for _, f := range s.Files {
		ending := ""
		if f.State == repo.StateEnding {
			ending = ", ends soon"
		}
		fmt.Fprintf(&b, "file       %s version %d, %s%s\n", f.Name, f.Version, validUntil(f.Expires, f.State == repo.StateExpired), ending)
	}
	for _, line := range []struct{ name, text string }{
		{"refused", s.Refused}, {"clock", s.Clock}, {"damage", s.Damage}, {"warning", s.Warning},
	} {
		if line.text != "" {
			fmt.Fprintf(&b, "%-10s %s\n", line.name, strings.ReplaceAll(line.text, "\n", "; "))
		}
	}
	if s.Refused == "" {
		fmt.Fprintf(&b, "machines   accept every release until %s\n", s.Until.Format(time.RFC3339))
	}
	return b.String()
}

func validUntil(t time.Time, expired bool) string {
	if expired {
		return "EXPIRED at " + t.Format(time.RFC3339)
	}
	return "valid until " + t.Format(time.RFC3339)
}

func releaseWords(s store.Status, r manifest.Release) string {
	var total int64
	for _, a := range r.Artifacts {
		total += a.Length
	}
	refused := ""
	for _, c := range s.Channels {
		if c.Channel == r.Channel && c.Arch == r.Arch && !c.Accepted {
			refused = ", REFUSED by machines"
		}
	}
	beside := ""
	for _, e := range r.Earlier {
		beside += fmt.Sprintf("earlier    %s/%s: %s, number %d, for machines that do not take %s\n", e.Channel, e.Arch, e.Version, e.ContentNumber(), r.Version)
	}
	rollout := ""
	if r.Rollout != nil {
		rollout = fmt.Sprintf("rollout    %s/%s: %s, number %d, for %s\n", r.Channel, r.Arch, r.Version, r.ContentNumber(), r.Rollout.Words())
	}
	if r.FallbackFloor > 0 {
		rollout += fmt.Sprintf("floor      %s/%s: no machine falls back to a number below %d\n", r.Channel, r.Arch, r.FallbackFloor)
	}
	return fmt.Sprintf("release    %s/%s: %s, version %d, %s in %s, signed %s, valid until %s%s\n%s",
		r.Channel, r.Arch, r.Version, r.Number, size(total), count(int64(len(r.Artifacts)), "file"), r.SignedAt.Format(time.RFC3339), r.Expires.Format(time.RFC3339), refused, rollout+beside)
}
