package main

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func usbCommand() *cobra.Command {
	var f mediaFlags
	var out, loader string
	var signing signingFlags
	size := cli.Size(4 << 30)
	cmd := &cobra.Command{
		Use:   "usb --root root.json --out F.img",
		Short: "Build a USB stick or VM disk that boots the releases of one repository",
		Long: `Build a disk image: a GPT with an EFI system partition (systemd-boot, one entry for each
boot mode) and a cache partition (ext4, label PHASE-CACHE). The file is sparse.

With --bootloader both, a second EFI system partition has GRUB with the same entries, kernel
and initramfs, for firmware that cannot start the loader of the first (docs/GRUB.md).

With --sb-key, firmware starts a signed UKI with the default mode in place of systemd-boot and
its menu (docs/SECURE-BOOT.md).`,
		Example: `  phase-image usb --root repo/root.json --out stick.img
  phase-image usb --root repo/root.json --flavour generic --default-mode local --size 8G --out stick.img
  phase-image usb --root repo/root.json --default-mode local --stale last-good --out stick.img
  phase-image usb --root repo/root.json --mode lab.json --default-mode lab --out stick.img
  phase-image usb --root repo/root.json --bootloader both --out stick.img
  phase-image usb --root repo/root.json --sb-key sb/db.key --sb-cert sb/db.pem --out stick.img
  phase-image usb --root repo/root.json --arch all --out both.img
  phase-image usb --root repo/root.json --ca ca.pem --cmdline "phase.mirror=https://mirror.example" --out vm.img`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := f.parse(cmd)
			if err != nil {
				return err
			}
			m.Bootloader = loader
			if m.Signing, err = signing.load(cmd); err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.MediaInfo, error) {
				return b.WriteUSB(cmd.Context(), m, int64(size), out)
			}, mediaText)
		},
	}
	f.register(cmd)
	loaderFlag(cmd, &loader, imagebuild.Loaders...)
	signing.register(cmd)
	cmd.Flags().Var(&size, "size", "size of the image; suffixes K, M, G, T")
	outFlag(cmd, &out, "the disk image")
	return cmd
}

func espCommand() *cobra.Command {
	var f mediaFlags
	var out, loader string
	var signing signingFlags
	cmd := &cobra.Command{
		Use:     "esp --root root.json --out F.img",
		Short:   "Build only the EFI system partition",
		Example: `  phase-image esp --root repo/root.json --out esp.img`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := f.parse(cmd)
			if err != nil {
				return err
			}
			m.Bootloader = loader
			if m.Signing, err = signing.load(cmd); err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.MediaInfo, error) {
				return b.WriteESP(cmd.Context(), m, out)
			}, mediaText)
		},
	}
	f.register(cmd)
	loaderFlag(cmd, &loader, imagebuild.LoaderSystemd, imagebuild.LoaderGRUB)
	signing.register(cmd)
	outFlag(cmd, &out, "the FAT32 filesystem")
	return cmd
}

func loaderFlag(cmd *cobra.Command, loader *string, values ...string) {
	last := len(values) - 1
	cmd.Flags().StringVar(loader, "bootloader", imagebuild.LoaderSystemd, "boot loader: "+strings.Join(values[:last], ", ")+" or "+values[last])
	complete(cmd, "bootloader", values...)
}

func mediaText(info *imagebuild.MediaInfo) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s: %s\n", info.Out, strings.TrimPrefix(info.Format+", "+humanize.IBytes(uint64(info.Size)), ", "))
	for _, s := range append([]imagebuild.SystemInfo{info.SystemInfo}, info.Others...) {
		fmt.Fprintf(&w, "  kernel     %s, %s\n", s.Kernel, s.Arch)
		fmt.Fprintf(&w, "  initramfs  %s\n", humanize.Bytes(uint64(s.Initramfs)))
	}
	fmt.Fprintf(&w, "  modes      %s (default %s)\n", strings.Join(info.Modes, ", "), info.DefaultMode)
	if info.Cache > 0 {
		fmt.Fprintf(&w, "  cache      %s, label %s\n", humanize.IBytes(uint64(info.Cache)), imagebuild.CacheLabel)
	}
	if info.Format == imagebuild.KindISO {
		fmt.Fprintf(&w, "  cache      none on a CD: the machine uses a partition with label %s of another disk, or keeps nothing\n", imagebuild.CacheLabel)
	}
	return w.String()
}
