// Command phase-image builds the images that machines boot from.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand())) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "phase-image",
		Short: "Builds the images that machines boot from",
		Long: `phase-image builds boot media, and the kernel, initramfs and root filesystem that a
release is made of, from Debian's packages. It needs no root rights and no loop mounts.

The same inputs give the same bytes. The date in every header is SOURCE_DATE_EPOCH or,
without it, the newest date that the inputs carry. Packages are kept in
$PHASE_BUILD_CACHE (default: phaseboot in the user's cache folder). Each part of this cache has
a limit, some 4 GB in all; what was not used for the longest time is removed, and nothing of the
last day. The whole folder may be removed at any time when no build is running.`,
		Example: `  phase-image usb --root repo/root.json --out stick.img
  phase-image verify --root repo/root.json stick.img
  phase-image write stick.img /dev/sdX`,
	}
	root.AddCommand(usbCommand(), espCommand(), ukiCommand(), keysCommand(), kernelCommand(), initramfsCommand(), rootfsCommand(), verifyCommand(), writeCommand(), renewCommand())
	root.AddCommand(isoCommand(), inputsCommand(), rebuildCommand())
	root.AddCommand(vmCommands()...)
	return root
}
