package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func ukiCommand() *cobra.Command {
	var f mediaFlags
	var signing signingFlags
	var out string
	cmd := &cobra.Command{
		Use:   "uki --root root.json --out F.efi",
		Short: "Build one EFI program that boots without a stick",
		Long: `Build a unified kernel image (UKI): kernel, initramfs with root.json, and the command line of
one boot mode, in one EFI program. UEFI firmware starts it by HTTP (phase-publish serve
--netboot), iPXE starts it, and so does a boot loader from EFI/Linux. It has no boot menu and
no cache partition; a machine uses one that it finds on its disks.`,
		Example: `  phase-image uki --root repo/root.json --out phase-x86_64.efi
  phase-image uki --root repo/root.json --default-mode local --out phase-x86_64.efi
  phase-image uki --root repo/root.json --sb-key sb/db.key --sb-cert sb/db.pem --out uki-x86_64.efi
  phase-image uki --root repo/root.json --flavour generic --cmdline "phase.mirror=http://192.0.2.80:8080" --out phase-x86_64.efi`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.arch == allArchs {
				return cli.Usagef("--arch %s: an EFI program is for one architecture; build one for each", allArchs)
			}
			m, err := f.parse(cmd)
			if err != nil {
				return err
			}
			if m.Signing, err = signing.load(cmd); err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.MediaInfo, error) {
				return b.WriteUKI(cmd.Context(), m, out)
			}, func(info *imagebuild.MediaInfo) string {
				return fmt.Sprintf("%s: %s, mode %s, kernel %s\n", info.Out, humanize.IBytes(uint64(info.Size)), info.DefaultMode, info.Kernel)
			})
		},
	}
	f.register(cmd)
	cmd.Flag("arch").Usage = "architecture: x86_64 or arm64"
	cmd.Flag("mode").Usage = "file NAME.json with one more boot mode, for --default-mode; repeatable"
	signing.register(cmd)
	outFlag(cmd, &out, "the EFI program")
	return cmd
}
