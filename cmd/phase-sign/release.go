package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
)

func newRelease() *cobra.Command {
	var (
		spec     = signer.ReleaseSpec{Lifetime: releaseLifetime}
		keys     []string
		passFile string
	)
	cmd := &cobra.Command{
		Use:   "release --repo DIR --out FILE",
		Short: "Hash the files of a release, write its manifest and sign it",
		Long: `release inspects each file before it hashes it: the kernel must be complete and for --arch, the
initramfs a cpio archive, compressed or not, the rootfs a squashfs, the job a WebAssembly core
module. With --unchecked it signs any file, and reads pipes too.

It warns about a phase.* argument in --cmdline that no program of Phase Boot reads, such as a
misspelt one.`,
		Example: `  phase-sign release --repo repo --channel stable --arch x86_64 --release 2026.11.1 \
    --kernel vmlinuz --initramfs initramfs.zst --rootfs rootfs.squashfs --job hello.wasm \
    --cmdline 'console=ttyS0 quiet' --expires 30d --key release.key --out RELEASE.json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cas.CheckChunker(spec.Chunker); err != nil {
				return cli.Usagef("%v", err)
			}
			warnCmdline(spec.Cmdline)
			progress := cli.NewProgress(cmd.Context())
			defer progress.Close()
			var err error
			if spec.Keys, err = loadKeys(cmd.Context(), keys, passphrases(passFile)); err != nil {
				return err
			}
			spec.Now = time.Now()
			spec.Watch = func(path string, size int64, r io.Reader) io.ReadCloser { return progress.Watch(path, size, r) }
			sum, err := signer.Release(cmd.Context(), spec)
			progress.Close()
			if err != nil {
				return err
			}
			return cli.Print(cmd, sum, sum.Words(spec.Now))
		},
	}
	releaseFlags(cmd, &spec)
	cmd.Flags().StringArrayVar(&keys, "key", nil, "release key to sign with (repeatable)")
	lifetimeFlag(cmd, &spec.Lifetime, "expires", "how long machines accept the release")
	passphraseFlag(cmd, &passFile)
	require(cmd, "repo", "channel", "arch", "release", "kernel", "initramfs", "key", "out")
	return cmd
}

// warnCmdline warns about phase.* arguments that no program reads, before they are signed.
func warnCmdline(cmdline string) {
	for _, line := range bootargs.Unread(cmdline) {
		fmt.Fprintf(os.Stderr, "phase-sign: warning: --cmdline: %s; machines ignore it; sign again without it\n", line)
	}
}

func releaseFlags(cmd *cobra.Command, spec *signer.ReleaseSpec) {
	f := cmd.Flags()
	f.StringVar(&spec.Repo, "repo", "", "repository, as init made it")
	f.StringVar(&spec.Channel, "channel", "", "channel")
	f.StringVar(&spec.Arch, "arch", "", "architecture: x86_64 or arm64")
	f.StringVar(&spec.Version, "release", "", "the release's version string")
	f.StringVar(&spec.Kernel, "kernel", "", "kernel image")
	f.StringVar(&spec.Initramfs, "initramfs", "", "initramfs")
	f.StringVar(&spec.Rootfs, "rootfs", "", "root filesystem image")
	f.StringArrayVar(&spec.DTBs, "dtb", nil, "device tree (repeatable)")
	f.StringVar(&spec.Job, "job", "", "WASM job that the booted machine runs")
	f.StringVar(&spec.Cmdline, "cmdline", "", "kernel command line")
	f.Int64Var(&spec.MinRAM, "min-ram", 0, "memory that the release needs, in MiB")
	f.StringVar(&spec.Out, "out", "", "the release manifest to write")
	f.BoolVar(&spec.Unchecked, "unchecked", false, "do not inspect the files before they are signed")
	f.BoolVar(&spec.Force, "force", false, forceUsage)
	chunkerFlag(cmd, &spec.Chunker)
}
