package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func rootfsCommand() *cobra.Command {
	var f platformFlags
	var include []string
	var plasmd, kernel, out string
	cmd := &cobra.Command{
		Use:   "rootfs --out F.squashfs",
		Short: "Build the root filesystem of a release",
		Long: `Build a small Debian with systemd and plasmd as a squashfs (zstd). The suite and the
mirrors come from this machine's apt configuration. The base system is cached, and built
again when its packages change. Flavour generic adds udev, and the modules and firmware of
its kernel. For another architecture than this machine's, the packages
are unpacked, and what their scripts would write is taken from the same packages for this
machine.`,
		Example: `  phase-image rootfs --out rootfs
  phase-image rootfs --arch arm64 --out rootfs-arm64
  phase-image rootfs --flavour generic --out rootfs
  phase-image rootfs --include openssh-server --out rootfs`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := imagebuild.Rootfs{Include: include, KernelFrom: kernel}
			var err error
			if r.Platform, err = imagebuild.ParsePlatform(f.arch, f.flavour); err != nil {
				return err
			}
			if r.Plasmd, err = siblingProgram(plasmd, "plasmd", f.arch); err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.RootfsInfo, error) {
				return b.WriteRootfs(cmd.Context(), r, out)
			}, func(info *imagebuild.RootfsInfo) string {
				text := fmt.Sprintf("%s: %s, Debian %s, %s", out, humanize.Bytes(uint64(info.Size)), info.Suite, english.Plural(info.Packages, "package", ""))
				if info.Kernel != "" {
					text += fmt.Sprintf(", %s of kernel %s", english.Plural(info.Modules, "module", ""), info.Kernel)
				}
				return text + "\n"
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&include, "include", nil, "one more Debian package; may be given several times")
	cmd.Flags().StringVar(&kernel, "kernel", "", "for the modules of flavour generic: kernel package (.deb), or folder with the files of one (default: Debian's newest)")
	cmd.Flags().StringVar(&plasmd, "plasmd", "", "static plasmd program (default: the one next to this program)")
	outFlag(cmd, &out, "the squashfs")
	return cmd
}
