package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

func kernelCommand() *cobra.Command {
	var f platformFlags
	var compile kernelBuildFlags
	var from, out string
	cmd := &cobra.Command{
		Use:   "kernel --out vmlinuz",
		Short: "Copy the kernel image from Debian's package, or build a boot kernel",
		Long: `Copy the kernel image from Debian's package, or from the one that --kernel names.

--build compiles a small boot kernel from Debian's sources, with all drivers built in, and writes
it as a package (.deb) for --kernel. It takes minutes, and the result is kept in the cache.`,
		Example: `  phase-image kernel --out vmlinuz
  phase-image kernel --arch arm64 --flavour generic --out Image
  phase-image kernel --build --out kernel.deb`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if compile.on {
				return compile.run(cmd, f.lock, f.arch, from, out)
			}
			if err := compile.unused(); err != nil {
				return err
			}
			platform, err := imagebuild.ParsePlatform(f.arch, f.flavour)
			if err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (map[string]string, error) {
				kernel, err := b.Kernel(cmd.Context(), platform, from)
				if err != nil {
					return nil, err
				}
				return map[string]string{"out": out, "kernel": kernel.Version, "package": kernel.Package}, b.WriteKernel(cmd.Context(), kernel, out)
			}, func(k map[string]string) string {
				return fmt.Sprintf("%s: kernel %s (%s)\n", out, k["kernel"], k["package"])
			})
		},
	}
	f.register(cmd)
	compile.register(cmd)
	cmd.Flags().StringVar(&from, "kernel", "", "kernel package (.deb), or folder with the files of one (default: Debian's newest)")
	outFlag(cmd, &out, "the kernel image; with --build, the kernel package")
	return cmd
}

func initramfsCommand() *cobra.Command {
	var f initramfsFlags
	var role, out string
	cmd := &cobra.Command{
		Use:   "initramfs --role boot|target --out F",
		Short: "Build the initramfs of the boot medium or of a release",
		Long: `Build an initramfs, compressed with zstd. The boot role finds, verifies and starts a
release; it contains root.json. The target role belongs to a release and mounts the
release's root filesystem. Flavour generic has the drivers of real machines in both, and
the firmware files that they ask for, as far as apt's sources have their packages.`,
		Example: `  phase-image initramfs --role boot --root repo/root.json --out initramfs.zst
  phase-image initramfs --role target --arch arm64 --out initramfs
  phase-image initramfs --role target --flavour generic --out initramfs`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := f.parse(cmd, role)
			if err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.InitramfsInfo, error) {
				return b.WriteInitramfs(cmd.Context(), in, out)
			}, func(info *imagebuild.InitramfsInfo) string {
				text := fmt.Sprintf("%s: %s, role %s, kernel %s, %s", out, humanize.Bytes(uint64(info.Size)), info.Role, info.Kernel, english.Plural(info.Modules, "module", ""))
				if info.Firmware > 0 {
					text += ", " + english.Plural(info.Firmware, "firmware file", "")
				}
				return text + "\n"
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&role, "role", imagebuild.RoleBoot, "boot or target")
	outFlag(cmd, &out, "the initramfs")
	return cmd
}
