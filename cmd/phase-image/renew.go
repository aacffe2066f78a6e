package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func renewCommand() *cobra.Command {
	o := imagebuild.RenewOptions{}
	var image, device string
	cmd := &cobra.Command{
		Use:   "renew --image F.img|--device D --repo DIR --artifacts DIR",
		Short: "Write the boot set of a release to a stick, beside those that it has",
		Long: `Write the boot kernel and initramfs of a repository's newest release to a stick, beside those
that it has. systemd-boot starts the new boot set three times at most; when a machine has
loaded a verified release with it, it is kept, and otherwise the one before is started again.

It verifies the image first, then the release with the root.json of the image. --repo has the
signed metadata, and --artifacts the files boot/kernel and boot/initramfs, as phase-boot fetch
and phase-publish get write them. A boot set of an older release is refused (exit code 3). A
stick that has this boot set stays as it is.

The power may be cut while it writes: the stick boots what it booted before, and the next
renewal mends it. A machine renews its stick by itself in a mode that may write to it; this
command is for sticks in a drawer. docs/RENEW.md describes both.`,
		Example: `  phase-image renew --image stick.img --repo repo --artifacts release
  phase-image renew --device /dev/sdX --repo repo --artifacts release
  phase-image renew --device /dev/sdX --arch arm64 --repo repo --artifacts release`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			name := image + device
			switch {
			case (image == "") == (device == ""):
				return cli.Usagef("name one stick: --image F.img, or --device D")
			case o.Repo == "" || o.Artifacts == "":
				return cli.Usagef("--repo or --artifacts is missing; name the folder of the repository and that of the release's files")
			}
			o.Now = time.Now()
			return build(cmd, func(b *imagebuild.Builder) (*imagebuild.Renewal, error) {
				return b.Renew(cmd.Context(), name, o)
			}, renewalText)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&image, "image", "", "disk image of phase-image usb")
	flags.StringVar(&device, "device", "", "stick with such an image")
	flags.StringVar(&o.Repo, "repo", "", "folder with the signed metadata of the repository")
	flags.StringVar(&o.Artifacts, "artifacts", "", "folder with boot/kernel and boot/initramfs of the release")
	flags.StringVar(&o.Arch, "arch", "", "architecture of the boot set, of a stick for several (default: the first one of the stick)")
	flags.BoolVar(&o.AllowFixed, "allow-fixed", false, "allow a device that is not removable")
	complete(cmd, "arch", imagebuild.Archs()...)
	err := cmd.RegisterFlagCompletionFunc("device", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return devicePaths(), cobra.ShellCompDirectiveNoFileComp
	})
	if err = errors.Join(err, cmd.MarkFlagFilename("image", "img"), cmd.MarkFlagDirname("repo"), cmd.MarkFlagDirname("artifacts")); err != nil {
		panic(err) // cannot happen: the flags are defined above
	}
	return cmd
}

func renewalText(r *imagebuild.Renewal) string {
	var b strings.Builder
	if r.Written {
		fmt.Fprintf(&b, "%s: boot set %d of release %s written\n", r.Image, r.Number, r.Release)
	} else {
		fmt.Fprintf(&b, "%s: nothing written: %s\n", r.Image, r.Words)
	}
	for _, words := range r.Sets {
		fmt.Fprintf(&b, "  %s\n", words)
	}
	return b.String()
}
