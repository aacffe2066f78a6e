package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer"
)

func newRelease() *cobra.Command {
	var spec signer.ReleaseSpec
	m := manifestFlags{spec: &spec.ManifestSpec}
	var sb secureBootFlags
	cmd := &cobra.Command{
		Use:   "release --repo DIR --out FILE",
		Short: "Hash the files of a release, write its manifest and sign it",
		Long: `release inspects each file before it hashes it: the kernel must be complete and for --arch, the
initramfs a cpio archive, compressed or not, the rootfs a squashfs, the job a WebAssembly core
module. With --unchecked it signs any file, and reads pipes too.

--boot-kernel and --boot-initramfs add a boot set, with which machines renew the sticks that they
boot from: a boot kernel and the initramfs that phase-image initramfs --role boot makes with the
repository's newest root.json.

With --bless, a machine counts its starts of the release until the target has blessed one, and runs
an older release after three without that. Only sign it for a target that blesses, as the unit
phase-bless.service of phase-image's root filesystem does.

With --rollout, --group or --not-before, the release goes to some machines first, and the manifest
carries the earlier releases of the repository for the others; phase-sign rollout widens it.

It warns about a phase.* argument in --cmdline that no program of Phase Boot reads, such as a
misspelt one.

Machines with Secure Boot start only a kernel whose signature leads to a certificate in the
firmware's db. With --sb-cert, release checks that. With --sb-key too, it writes the kernel with
such a signature to --sb-kernel, and signs that kernel into the manifest: publish that file. Only
kexec starts it, not the firmware.

` + submitterHelp,
		Example: `  phase-sign release --repo repo --channel stable --arch x86_64 --release 2026.11.1 \
    --kernel vmlinuz --initramfs initramfs.zst --rootfs rootfs.squashfs --job hello.wasm \
    --cmdline 'console=ttyS0 quiet' --expires 30d --key keys/release --out RELEASE.json
  phase-sign release --repo repo --channel stable --arch x86_64 --release 2026.11.1 \
    --kernel vmlinuz --sb-key sb/db.key --sb-cert sb/db.pem --sb-kernel artifacts/kernel \
    --initramfs artifacts/initramfs --rootfs artifacts/rootfs --key keys/release --out RELEASE.json
  phase-sign release --repo repo --channel stable --arch x86_64 --release 2026.11.1 \
    --kernel vmlinuz --initramfs initramfs.zst --rootfs rootfs.squashfs --key keys/release --out RELEASE.json \
    --submitter ci.pub=jobs=4,memory=256M,timeout=60s,stdin,scratch=16M --submitter ann.pub`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cas.CheckChunker(spec.Chunker); err != nil {
				return cli.Usagef("%v", err)
			}
			var err error
			if spec.SecureBoot, err = sb.load(cmd.Context()); err != nil {
				return err
			}
			warnCmdline(spec.Cmdline)
			return m.sign(cmd, func(ctx context.Context) (signer.Summary, error) {
				progress := cli.NewProgress(ctx)
				defer progress.Close()
				spec.Watch = func(path string, size int64, r io.Reader) io.ReadCloser { return progress.Watch(path, size, r) }
				return signer.Release(ctx, spec)
			})
		},
	}
	m.define(cmd, releaseKeyUsage, submitterUsage)
	m.rollout.defineHold(cmd)
	releaseFlags(cmd, &spec)
	sb.register(cmd)
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
	f.StringVar(&spec.Channel, "channel", "", "channel")
	f.StringVar(&spec.Version, "release", "", "the release's version string")
	f.StringVar(&spec.Kernel, "kernel", "", "kernel image")
	f.StringVar(&spec.Initramfs, "initramfs", "", "initramfs")
	f.StringVar(&spec.Rootfs, "rootfs", "", "root filesystem image")
	f.StringArrayVar(&spec.DTBs, "dtb", nil, "device tree `file` for arm64 machines without ACPI, named as the board: vendor,board.dtb (repeatable)")
	f.StringVar(&spec.BootKernel, "boot-kernel", "", "boot kernel for the sticks of machines")
	f.StringVar(&spec.BootInitramfs, "boot-initramfs", "", "boot initramfs for the sticks of machines")
	f.StringVar(&spec.Job, "job", "", "WASM job that the booted machine runs")
	f.StringVar(&spec.Cmdline, "cmdline", "", "kernel command line")
	f.Int64Var(&spec.MinRAM, "min-ram", 0, "memory that the release needs, in MiB")
	f.Var((*blessFlag)(&spec.Bless), "bless", "the target blesses each start with 'phase-boot bless' within this `time`, or the machine restarts; after three starts without that it runs an older release (default of a bare --bless: 10m)")
	f.Lookup("bless").NoOptDefVal = "10m"
	f.BoolVar(&spec.Unchecked, "unchecked", false, "do not inspect the files before they are signed")
	chunkerFlag(cmd, &spec.Chunker)
}

// blessFlag is a time in whole seconds.
type blessFlag int64

func (b *blessFlag) String() string {
	if *b == 0 {
		return ""
	}
	return (time.Duration(*b) * time.Second).String()
}

func (*blessFlag) Type() string { return "time" }

func (b *blessFlag) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > manifest.MaxBless*time.Second || d%time.Second != 0 {
		return errors.New("give whole seconds from 1s to 24h, for example 10m")
	}
	*b = blessFlag(d / time.Second)
	return nil
}

const newSubmitterUsage = "in place of the release's submitters: KEY.pub[=OPTION,…] as 'phase-sign release' reads it (repeatable), or none"

const releaseKeyUsage = "release key to sign with (repeatable)"

// manifestFlags are the flags of the verbs that sign a new release manifest.
type manifestFlags struct {
	spec       *signer.ManifestSpec
	keys       []string
	submitters []string
	passFile   string
	rollout    rolloutFlags
}

// define adds the flags to cmd, except the one for the channel.
func (m *manifestFlags) define(cmd *cobra.Command, keyUsage, submitterUsage string) {
	m.spec.Lifetime = releaseLifetime
	f := cmd.Flags()
	f.StringVar(&m.spec.Repo, "repo", "", "repository, as init made it")
	f.StringVar(&m.spec.Arch, "arch", "", "architecture: x86_64 or arm64")
	f.StringVar(&m.spec.Out, "out", "", "the release manifest to write")
	f.BoolVar(&m.spec.Force, "force", false, "replace a manifest at --out that other keys have signed or that is not published, reuse a version string for other content, and skip a damaged newest manifest of the repository")
	f.StringArrayVar(&m.keys, "key", nil, keyUsage)
	f.StringArrayVar(&m.submitters, "submitter", nil, submitterUsage)
	lifetimeFlag(cmd, &m.spec.Lifetime, "expires", "how long machines accept the release")
	m.rollout.define(cmd)
	passphraseFlag(cmd, &m.passFile)
}

// sign loads the keys, signs, and prints the new manifest.
func (m *manifestFlags) sign(cmd *cobra.Command, sign func(context.Context) (signer.Summary, error)) (err error) {
	pass := passphrases(m.passFile)
	if m.spec.Rollout, err = m.rollout.conditions(cmd); err != nil {
		return err
	}
	if m.spec.Submitters, err = loadSubmitters(cmd.Context(), m.submitters, pass); err != nil {
		return err
	}
	if m.spec.Keys, err = loadKeys(cmd.Context(), m.keys, pass); err != nil {
		return err
	}
	m.spec.Now = time.Now()
	sum, err := sign(cmd.Context())
	if err != nil {
		return err
	}
	return cli.Print(cmd, sum, sum.Words(m.spec.Now))
}
