package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// kernelBuildFlags select the inputs of a kernel that is compiled.
type kernelBuildFlags struct {
	on            bool
	options, cert string
}

func (f *kernelBuildFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "build", false, "compile a boot kernel from Debian's sources")
	cmd.Flags().StringVar(&f.options, "options", "", "for --build: file with more kernel options, such as CONFIG_X=y")
	cmd.Flags().StringVar(&f.cert, "kexec-cert", "", "for --build: certificates (PEM); with Secure Boot, the kernel also starts releases whose kernel these keys signed")
}

// unused refuses the flags of --build without it.
func (f *kernelBuildFlags) unused() error {
	if f.options != "" || f.cert != "" {
		return cli.Usagef("--options and --kexec-cert are for --build; add --build")
	}
	return nil
}

// run builds a kernel.
func (f *kernelBuildFlags) run(cmd *cobra.Command, lock lockFlags, arch, from, out string) (err error) {
	if from != "" {
		return cli.Usagef("--build and --kernel: a kernel is either compiled or copied; remove one of them")
	}
	in := imagebuild.KernelBuild{Arch: arch}
	if f.options != "" {
		if in.Options, err = cli.ReadInput(f.options, "kernel options", maxRoot); err != nil {
			return err
		}
	}
	if f.cert != "" {
		if in.Certs, err = cli.ReadInput(f.cert, "kexec certificate", maxRoot); err != nil {
			return err
		}
	}
	return buildLocked(cmd, lock, func(b *imagebuild.Builder) (*imagebuild.KernelInfo, error) {
		return b.BuildKernel(cmd.Context(), in, out)
	}, func(info *imagebuild.KernelInfo) string {
		return fmt.Sprintf("%s: kernel %s, %s, from %s\n", out, info.Kernel, humanize.Bytes(uint64(info.Size)), info.Source)
	})
}
