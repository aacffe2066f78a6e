package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// A publishedConfig is what the verb config did.
type publishedConfig struct {
	Number    int64  `json:"role_version"`
	Documents int    `json:"documents"`
	Unchanged bool   `json:"unchanged"` // the same settings were published before
	Snapshot  int64  `json:"snapshot_version"`
	Timestamp int64  `json:"timestamp_version"`
	Pointer   string `json:"head"` // CID of the metadata folder
}

func newConfig() *cobra.Command {
	var dir string
	var ignoreClock bool
	var online onlineFlags
	cmd := &cobra.Command{
		Use:   "config --repo DIR --online-key KEY CONFIG.json",
		Short: "Publish signed settings of machines",
		Long: `config checks settings that phase-sign config has signed against the repository, and writes them,
a new snapshot and, last, a new timestamp into it. A running daemon serves them by itself. The settings are a part
of the metadata: they need no store. Everyone who reaches the publisher can read them; secrets in them are sealed.`,
		Example: `  phase-publish config --repo repo --online-key keys/online CONFIG.json`,
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			data, err := cli.ReadMetadata(args[0], "settings", manifest.KindConfig, "the file that phase-sign config wrote")
			if err != nil {
				return err
			}
			key, err := online.load(ctx)
			if err != nil {
				return err
			}
			r, err := repo.Open(ctx, dir)
			if err != nil {
				return err
			}
			c, known, err := r.PublishConfig(ctx, data, repo.Signing{Key: key, Now: time.Now(), IgnoreClock: ignoreClock})
			if err != nil {
				return err
			}
			p, err := r.ReadPointer(ctx)
			if err != nil {
				return err
			}
			out := publishedConfig{c.Number, len(c.Settings), known, p.Snapshot, p.Timestamp, p.Folder.String()}
			return cli.Print(cmd, out, out.words())
		},
	}
	cmd.Flags().StringVar(&dir, "repo", "", "folder of the repository, made by phase-sign init")
	cmd.Flags().BoolVar(&ignoreClock, "ignore-clock", false, "sign although the clock contradicts the dates of what is published")
	online.register(cmd)
	require(cmd, "repo")
	return cmd
}

func (p publishedConfig) words() string {
	text := fmt.Sprintf("settings: version %d, %s", p.Number, count(int64(p.Documents), "document"))
	if p.Unchanged {
		text += ", were published already"
	}
	return fmt.Sprintf("%s\npointer %s, timestamp %d\n", text, p.Pointer, p.Timestamp)
}
