package main

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func writeCommand() *cobra.Command {
	yes := false
	cmd := &cobra.Command{
		Use:   "write --yes F.img DEVICE",
		Short: "Write an image to a whole device and read it back",
		Long: `Write an image to a block device, which is opened for this program alone: one that is
mounted, or part of LVM, RAID or an open dm-crypt, is refused. Where the image has zeros,
nothing is written unless the device holds other bytes there. Then it is read back.

Everything on the device is lost, and no question is asked: scripts/write-usb.sh asks, and
refuses disks that cannot be pulled.`,
		Example: `  phase-image write --yes stick.img /dev/sdX`,
		Args:    cli.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return cli.Usagef("device %s: everything on it would be lost; add --yes, or use scripts/write-usb.sh, which asks", args[1])
			}
			p := &writeProgress{w: prefixed{cmd}, every: 10 * time.Second, start: time.Now()}
			if err := imagebuild.WriteDevice(cmd.Context(), args[0], args[1], p.at); err != nil {
				return usage(err)
			}
			size := p.total / 2
			return cli.Print(cmd, map[string]any{"device": args[1], "size": size}, fmt.Sprintf("%s: written and read back, %s\n", args[1], humanize.IBytes(uint64(size))))
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "everything on the device may be lost")
	return cmd
}

// writeProgress says now and then how far the writing is.
type writeProgress struct {
	w     io.Writer
	every time.Duration
	start time.Time
	said  time.Time
	total int64
}

func (p *writeProgress) at(n, total int64) {
	p.total = total
	now := time.Now()
	if p.said.IsZero() {
		p.said = p.start
	}
	if now.Sub(p.said) < p.every {
		return
	}
	p.said = now
	what, size := "written", total/2
	if n > size {
		what, n = "read back", n-size
	}
	fmt.Fprintf(p.w, "%s of %s %s after %s\n", humanize.IBytes(uint64(n)), humanize.IBytes(uint64(size)), what, now.Sub(p.start).Round(time.Second))
}
