package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// maxRoot bounds root.json, and a file with certificate authorities, in bytes. A booting machine has the same limit.
const maxRoot = 1 << 20

// maxTorrc bounds a torrc in bytes.
const maxTorrc = 64 << 10

// platformFlags select the kind of machine.
type platformFlags struct {
	arch, flavour string
	lock          lockFlags
}

func (f *platformFlags) register(cmd *cobra.Command) {
	archFlag(cmd, &f.arch)
	cmd.Flags().StringVar(&f.flavour, "flavour", "vm", "vm (Debian's cloud kernel, small) or generic (real machines)")
	complete(cmd, "flavour", "vm", "generic")
	f.lock.register(cmd)
}

func archFlag(cmd *cobra.Command, arch *string) {
	cmd.Flags().StringVar(arch, "arch", "x86_64", "architecture: "+strings.Join(imagebuild.Archs(), " or "))
	complete(cmd, "arch", imagebuild.Archs()...)
}

// initramfsFlags select the inputs of an initramfs.
type initramfsFlags struct {
	platformFlags
	root, channel, phaseBoot, kernel, torrc string
	withTor                                 bool
	modes                                   modeFlag
	authorities                             authorityFlag
}

func (f *initramfsFlags) register(cmd *cobra.Command) {
	f.platformFlags.register(cmd)
	cmd.Flags().StringVar(&f.root, "root", "", "root.json of the one repository that the machine trusts")
	cmd.Flags().StringVar(&f.channel, "channel", "stable", "channel to boot unless the kernel command line names one")
	cmd.Flags().StringVar(&f.phaseBoot, "phase-boot", "", "static phase-boot program (default: the one next to this program)")
	cmd.Flags().StringVar(&f.kernel, "kernel", "", "kernel package (.deb), or folder with the files of one (default: Debian's newest)")
	cmd.Flags().BoolVar(&f.withTor, "with-tor", false, "add Debian's tor, for boot mode tor")
	cmd.Flags().StringVar(&f.torrc, "torrc", "", "file with more options for Tor, such as bridges; for --with-tor")
	f.authorities.register(cmd, "certificate authority of https mirrors (PEM), beside Debian's; repeatable")
	f.modes.register(cmd)
}

// authorityFlag names files with certificate authorities.
type authorityFlag []string

func (f *authorityFlag) register(cmd *cobra.Command, usage string) {
	cmd.Flags().StringArrayVar((*[]string)(f), "ca", nil, usage)
}

// read returns the certificates of all files.
func (f authorityFlag) read() (all []byte, err error) {
	for _, name := range f {
		data, err := cli.ReadInput(name, "certificate authority", maxRoot)
		if err != nil {
			return nil, err
		}
		all = append(append(all, data...), '\n')
	}
	return all, nil
}

// parse checks the flags for the role and reads root.json. It prints a warning if the root has
// expired.
func (f *initramfsFlags) parse(cmd *cobra.Command, role string) (imagebuild.Initramfs, error) {
	if role != imagebuild.RoleBoot && (f.root != "" || len(f.authorities) > 0 || len(f.modes) > 0) {
		return imagebuild.Initramfs{}, cli.Usagef("--root, --ca and --mode are for --role boot; an initramfs of the target role has no root.json and asks no mirror")
	}
	platform, err := imagebuild.ParsePlatform(f.arch, f.flavour)
	if err != nil {
		return imagebuild.Initramfs{}, err
	}
	in, err := f.read(cmd, role)
	if err != nil {
		return in, err
	}
	return f.onPlatform(cmd, in, platform)
}

// read returns the inputs that do not depend on the architecture.
func (f *initramfsFlags) read(cmd *cobra.Command, role string) (in imagebuild.Initramfs, err error) {
	in = imagebuild.Initramfs{Role: role, Channel: f.channel, KernelFrom: f.kernel, WithTor: f.withTor}
	if f.torrc != "" {
		if in.Torrc, err = cli.ReadInput(f.torrc, "torrc", maxTorrc); err != nil {
			return in, err
		}
	}
	if role != imagebuild.RoleBoot {
		return in, nil
	}
	if f.root == "" {
		return in, cli.Usagef("--root is missing; name the repository's root.json, which phase-sign init writes")
	}
	if in.Root, err = cli.ReadMetadata(f.root, "root", manifest.KindRoot, "the root.json of the repository"); err != nil {
		return in, err
	}
	root, err := manifest.ParseRoot(in.Root)
	if err != nil {
		return in, fmt.Errorf("root %s: %w", f.root, err)
	}
	if end := root.Expires(); !time.Now().Before(end) {
		fmt.Fprintf(cmd.ErrOrStderr(), "phase-image: warning: root %s: expired %s; machines boot only if the repository has a newer root, which phase-sign rotate makes\n", f.root, end.UTC().Format(time.RFC3339))
	}
	if in.Authorities, err = f.authorities.read(); err != nil {
		return in, err
	}
	in.Modes, err = f.modes.read()
	return in, err
}

// onPlatform adds the inputs that depend on the architecture.
func (f *initramfsFlags) onPlatform(cmd *cobra.Command, in imagebuild.Initramfs, p imagebuild.Platform) (imagebuild.Initramfs, error) {
	in.Platform = p
	var err error
	if in.Role == imagebuild.RoleBoot {
		if in.Channels, err = imagebuild.Channels(cmd.Context(), filepath.Dir(f.root), in.Root, p.Arch); err != nil {
			return in, fmt.Errorf("root %s: the repository's targets.json: %w", f.root, err)
		}
	}
	in.PhaseBoot, err = siblingProgram(f.phaseBoot, "phase-boot", p.Arch)
	return in, err
}

// mediaFlags select the inputs of a bootable medium.
type mediaFlags struct {
	initramfsFlags
	mode, stale, cmdline string
}

func (f *mediaFlags) register(cmd *cobra.Command) {
	f.initramfsFlags.register(cmd)
	arch := cmd.Flags().Lookup("arch")
	arch.Usage += ", or " + allArchs + " for a medium that boots both"
	cmd.Flags().StringVar(&f.mode, "default-mode", "", "boot mode that starts without a key press (default internet)")
	cmd.Flags().StringVar(&f.stale, "stale", "", "if no valid metadata are found: refuse, or last-good to boot the newest release that the machine has verified before (default: as the boot mode says)")
	completeModes(cmd, "default-mode", &f.modes)
	complete(cmd, "stale", "refuse", "last-good")
	cmd.Flags().StringVar(&f.cmdline, "cmdline", "", "added to the kernel command line of every entry")
}

// complete gives the shell the values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // cannot happen: the flag was defined before
	}
}

func (f *mediaFlags) parse(cmd *cobra.Command) (imagebuild.Media, error) {
	cmdline := f.cmdline
	if f.stale != "" {
		if err := bootargs.CheckStale(f.stale); err != nil {
			return imagebuild.Media{}, cli.Usagef("--stale %.40q: %v", f.stale, err)
		}
		if policy := bootargs.Parse(f.cmdline).Stale; policy != "" {
			return imagebuild.Media{}, cli.Usagef("--stale %s and phase.stale=%s in --cmdline: remove one of them", f.stale, policy)
		}
		cmdline = strings.TrimSpace("phase.stale=" + f.stale + " " + f.cmdline)
	}
	m := imagebuild.Media{DefaultMode: f.mode, Cmdline: cmdline}
	var err error
	if f.arch != allArchs {
		m.Initramfs, err = f.initramfsFlags.parse(cmd, imagebuild.RoleBoot)
		return m, err
	}
	systems, err := f.parseAll(cmd)
	if err == nil {
		m.Initramfs, m.Others = systems[0], systems[1:]
	}
	return m, err
}

// allArchs is the value of --arch for a medium that boots every architecture.
const allArchs = "all"

// parseAll is initramfsFlags.parse for every architecture.
func (f *mediaFlags) parseAll(cmd *cobra.Command) (all []imagebuild.Initramfs, err error) {
	if f.phaseBoot != "" || f.kernel != "" {
		return nil, cli.Usagef("--phase-boot and --kernel: of one architecture; with --arch %s the programs are those that make builds", allArchs)
	}
	in, err := f.read(cmd, imagebuild.RoleBoot)
	if err != nil {
		return nil, err
	}
	for _, arch := range imagebuild.Archs() {
		p, err := imagebuild.ParsePlatform(arch, f.flavour)
		if err != nil {
			return nil, err
		}
		one, err := f.onPlatform(cmd, in, p)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// siblingProgram returns path, or else the program of this name for an architecture in this
// program's folder, where that of another architecture than the host's is in a folder with its
// name. The program must exist. The flag has its name.
func siblingProgram(path, name, arch string) (string, error) {
	remedy := "make binaries"
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(self), name)
		if arch != bootfile.HostArch() {
			path, remedy = filepath.Join(filepath.Dir(self), arch, name), "make ARCH="+arch+" binaries"
		}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("program %s: %w; run %s, or name it with --%s", path, fs.ErrNotExist, remedy, name)
	}
	return path, nil
}

func outFlag(cmd *cobra.Command, out *string, what string) {
	cmd.Flags().StringVar(out, "out", "", "file to write: "+what)
	if err := cmd.MarkFlagRequired("out"); err != nil {
		panic(err) // cannot happen: the flag is defined above
	}
}

// build calls work with a builder and prints its result.
func build[T any](cmd *cobra.Command, work func(*imagebuild.Builder) (T, error), text func(T) string) error {
	return buildLocked(cmd, lockFlags{}, work, text)
}

// buildLocked is build with the packages of a list.
func buildLocked[T any](cmd *cobra.Command, lock lockFlags, work func(*imagebuild.Builder) (T, error), text func(T) string) error {
	epoch, err := imagebuild.EnvEpoch()
	if err != nil {
		return err
	}
	newest, err := imagebuild.New(imagebuild.Options{Epoch: epoch, Progress: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	b, err := lock.apply(newest)
	if err != nil {
		return err
	}
	result, err := work(b)
	if lock.fallback && errors.Is(err, imagebuild.ErrPinned) {
		fmt.Fprintf(cmd.ErrOrStderr(), "phase-image: warning: %v; building with this machine's newest packages\n", err)
		result, err = work(newest)
	}
	if err != nil {
		return err
	}
	return cli.Print(cmd, result, text(result))
}
