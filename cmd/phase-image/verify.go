package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify F.img",
		Short: "Check an image and say what is inside",
		Long: `Check the partition table and both filesystems with the tools that know them best
(sgdisk, fsck.fat, e2fsck), and show the boot modes, the kernel, and the keys that a
machine which boots this image will trust.`,
		Example: `  phase-image verify stick.img`,
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := cli.OpenInput(args[0], "image")
			if err != nil {
				return err
			}
			f.Close()
			b, err := builder(cmd)
			if err != nil {
				return err
			}
			c, err := b.Verify(cmd.Context(), args[0])
			if err != nil {
				return usage(err)
			}
			return cli.Print(cmd, c, contentsWords(c))
		},
	}
}

func contentsWords(c *imagebuild.Contents) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s: %s, disk %s\n", c.Image, humanize.IBytes(uint64(c.Size)), c.Disk)
	fmt.Fprintf(&w, "  checks     %s: nothing wrong\n", strings.Join(c.Checks, ", "))
	fmt.Fprintf(&w, "  kernel     %.200s\n", c.Kernel)
	fmt.Fprintf(&w, "  initramfs  %s, role %s, channel %s, build time %s\n", humanize.Bytes(uint64(c.Initramfs)), c.Role, c.Channel, c.BuildTime)
	fmt.Fprintf(&w, "  trust      root.json version %d, expires %s\n", c.Root.Version, c.Root.Expires)
	for _, role := range slices.Sorted(maps.Keys(c.Root.Roles)) {
		keys := c.Root.Roles[role]
		fmt.Fprintf(&w, "             %-9s  %d of %s\n", role, keys.Threshold, strings.Join(keys.KeyIDs, ", "))
	}
	for _, e := range c.Entries {
		mark := " "
		if e.Mode == c.Default {
			mark = "*"
		}
		fmt.Fprintf(&w, "  mode     %s %-9s %s\n                       %s\n", mark, e.Mode, e.Title, e.Cmdline)
	}
	return w.String()
}
