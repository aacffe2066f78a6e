package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// A vmFormat is the text of a command that writes a disk for virtual machines.
type vmFormat struct {
	format  *diskformat.Format
	example string // name of an output
	short   string
	long    string
}

var vmFormats = []vmFormat{
	{diskformat.QCOW2, "vm.qcow2", "Build a disk for QEMU and libvirt", `The file holds only the blocks of the disk that are not zero.`},
	{diskformat.VMDK, "vm.vmdk", "Build a disk for VMware", `The file (monolithicSparse) holds only the blocks of the disk that are not zero. It
repeats its own name, which must stay the same.`},
	{diskformat.VHDX, "vm.vhdx", "Build a disk for Hyper-V", `The file (dynamic) holds only the blocks of the disk that are not zero. Hyper-V opens
no sparse file: copy it without holes (cp --sparse=never).`},
	{diskformat.Parallels, "vm.hdd", "Build a disk or a virtual machine for Parallels Desktop", `A disk (NAME.hdd) is a folder with a descriptor and an expanding image. A virtual machine
(NAME.pvm) is a folder with settings (UEFI, 2 processors, 2 GiB) and that disk.`},
}

func vmCommands() (all []*cobra.Command) {
	for _, f := range vmFormats {
		all = append(all, f.command())
	}
	return all
}

func (v vmFormat) command() *cobra.Command {
	var f mediaFlags
	var out, from string
	size := cli.Size(4 << 30)
	name := v.format.Name
	cmd := &cobra.Command{
		Use:   name + " --root root.json --out " + v.example,
		Short: v.short,
		Long: fmt.Sprintf(`Build the disk of phase-image usb in the format %s.
%s
--from converts a disk that exists: an image of phase-image usb, or a device.

Disks and network cards of VMware, Hyper-V and Parallels need --flavour generic.`, name, v.long),
		Example: fmt.Sprintf(`  phase-image %[1]s --root repo/root.json --size 2G --out %[2]s
  phase-image %[1]s --root repo/root.json --flavour generic --default-mode local --out %[2]s
  phase-image %[1]s --from stick.img --out %[2]s`, name, v.example),
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from != "" {
				return v.convert(cmd, from, out)
			}
			m, err := f.parse(cmd)
			if err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.MediaInfo, error) {
				return b.WriteDisk(cmd.Context(), m, int64(size), v.format, out)
			}, mediaText)
		},
	}
	f.register(cmd)
	cmd.Flags().Var(&size, "size", "size of the disk in whole MiB; suffixes K, M, G")
	cmd.Flags().StringVar(&from, "from", "", "disk to convert, instead of building one: an image of phase-image usb, or a device")
	outFlag(cmd, &out, "the disk")
	return cmd
}

// convert writes a disk that exists in the format. It refuses the flags of a build.
func (v vmFormat) convert(cmd *cobra.Command, from, out string) (err error) {
	global := cmd.InheritedFlags()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "from" && f.Name != "out" && global.Lookup(f.Name) == nil {
			err = cli.Usagef("--%s: --from converts a disk as it is; remove one of them", f.Name)
		}
	})
	if err != nil {
		return err
	}
	return build(cmd, func(b *imagebuild.Builder) (map[string]any, error) {
		size, err := b.ConvertDisk(cmd.Context(), from, v.format, out)
		return map[string]any{"out": out, "format": v.format.Name, "size": size, "from": from}, err
	}, func(r map[string]any) string {
		return fmt.Sprintf("%s: %s, %s, from %s\n", out, v.format.Name, humanize.IBytes(uint64(r["size"].(int64))), from)
	})
}

func isoCommand() *cobra.Command {
	var f mediaFlags
	var out string
	cmd := &cobra.Command{
		Use:   "iso --root root.json --out F.iso",
		Short: "Build a CD that boots the releases of one repository, for virtual media of servers",
		Long: `Build an ISO image: a CD (El Torito) that is also a USB stick (GPT). It starts UEFI
machines only, with the same EFI system partition as phase-image usb.

It has no cache partition. The machine uses one of another disk (ext4, label PHASE-CACHE);
without one it fetches all blocks at each start, keeps nothing, and does not know which
version it has seen before.`,
		Example: `  phase-image iso --root repo/root.json --flavour generic --out boot.iso
  phase-image iso --root repo/root.json --cmdline "phase.mirror=https://mirror.example" --out boot.iso`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := f.parse(cmd)
			if err != nil {
				return err
			}
			return buildLocked(cmd, f.lock, func(b *imagebuild.Builder) (*imagebuild.MediaInfo, error) {
				return b.WriteISO(cmd.Context(), m, out)
			}, mediaText)
		},
	}
	f.register(cmd)
	outFlag(cmd, &out, "the ISO image")
	return cmd
}
