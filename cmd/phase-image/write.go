package main

import (
	"fmt"

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
		Long: `Write an image to a block device and read it back. The device is opened exclusively: a
device that is mounted, or part of LVM, RAID or an open dm-crypt, is refused. Blocks of
zeros are written only where the device has other bytes.

Everything on the device is lost, and the command does not ask. scripts/write-usb.sh asks
first, and refuses disks that are not removable.`,
		Example: `  phase-image write --yes stick.img /dev/sdX`,
		Args:    cli.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return cli.Usagef("device %s: everything on it would be lost; add --yes, or use scripts/write-usb.sh, which asks first", args[1])
			}
			size, err := write(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			return cli.Print(cmd, map[string]any{"device": args[1], "size": size}, fmt.Sprintf("%s: written and read back, %s\n", args[1], humanize.IBytes(uint64(size))))
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "overwrite the device; everything on it is lost")
	return cmd
}

// write writes an image to a device, shows the progress, and returns the image's size.
func write(cmd *cobra.Command, image, device string) (size int64, err error) {
	progress := cli.NewProgress(cmd.Context())
	defer progress.Close()
	show := progress.Bytes("write and read back " + device)
	err = imagebuild.WriteDevice(cmd.Context(), image, device, func(done, total int64) {
		size = total / 2
		show(done, total)
	})
	return size, err
}
