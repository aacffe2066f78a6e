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
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// maxRoot bounds root.json, and a file with certificate authorities, in bytes. A booting machine has the same limit.
const maxRoot = 1 << 20

// maxTorrc bounds a torrc in bytes.
const maxTorrc = 64 << 10

// platformFlags select the kind of machine.
type platformFlags struct{ arch, flavour string }

func (f *platformFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.arch, "arch", "x86_64", "architecture: x86_64")
	cmd.Flags().StringVar(&f.flavour, "flavour", "vm", "vm (Debian's cloud kernel, small) or generic (real machines)")
}

// initramfsFlags select the inputs of an initramfs.
type initramfsFlags struct {
	platformFlags
	root, channel, phaseBoot, kernelDir, torrc string
	withTor                                    bool
	modes                                      modeFlag
	authorities                                authorityFlag
}

func (f *initramfsFlags) register(cmd *cobra.Command) {
	f.platformFlags.register(cmd)
	cmd.Flags().StringVar(&f.root, "root", "", "root.json of the one repository that the machine trusts")
	cmd.Flags().StringVar(&f.channel, "channel", "stable", "channel to boot unless the kernel command line names one")
	cmd.Flags().StringVar(&f.phaseBoot, "phase-boot", "", "static phase-boot program (default: the one next to this program)")
	cmd.Flags().StringVar(&f.kernelDir, "kernel-dir", "", "folder of an unpacked kernel package (default: Debian's newest)")
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
	in := imagebuild.Initramfs{Role: role, Channel: f.channel, PhaseBoot: f.phaseBoot, KernelDir: f.kernelDir, WithTor: f.withTor}
	var err error
	if f.torrc != "" {
		if in.Torrc, err = cli.ReadInput(f.torrc, "torrc", maxTorrc); err != nil {
			return in, err
		}
	}
	if in.Platform, err = imagebuild.ParsePlatform(f.arch, f.flavour); err != nil {
		return in, err
	}
	if role == imagebuild.RoleBoot {
		if f.root == "" {
			return in, cli.Usagef("--root is missing; name the repository's root.json, which phase-sign init writes")
		}
		if in.Root, err = cli.ReadInput(f.root, "root", maxRoot); err != nil {
			return in, err
		}
		root, err := manifest.ParseRoot(in.Root)
		if err != nil {
			return in, fmt.Errorf("root %s: %w", f.root, err)
		}
		if end := root.Expires(); !time.Now().Before(end) {
			fmt.Fprintf(cmd.ErrOrStderr(), "phase-image: warning: root %s: expired %s; machines boot only if the repository has a newer root, which phase-sign rotate makes\n", f.root, end.UTC().Format(time.RFC3339))
		}
		if in.Channels, err = imagebuild.Channels(cmd.Context(), filepath.Dir(f.root), in.Root, f.arch); err != nil {
			return in, fmt.Errorf("root %s: the repository's targets.json: %w", f.root, err)
		}
		if in.Authorities, err = f.authorities.read(); err != nil {
			return in, err
		}
		if in.Modes, err = f.modes.read(); err != nil {
			return in, err
		}
	} else if f.root != "" || len(f.authorities) > 0 || len(f.modes) > 0 {
		return in, cli.Usagef("--root, --ca and --mode are for --role boot; an initramfs of the target role has no root.json and asks no mirror")
	}
	in.PhaseBoot, err = siblingProgram(f.phaseBoot, "phase-boot")
	return in, err
}

// mediaFlags select the inputs of a bootable medium.
type mediaFlags struct {
	initramfsFlags
	mode, stale, cmdline string
}

func (f *mediaFlags) register(cmd *cobra.Command) {
	f.initramfsFlags.register(cmd)
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
	in, err := f.initramfsFlags.parse(cmd, imagebuild.RoleBoot)
	return imagebuild.Media{Initramfs: in, DefaultMode: f.mode, Cmdline: cmdline}, err
}

// siblingProgram returns path, or else the program of this name in this program's folder. The program
// must exist. The flag has its name.
func siblingProgram(path, name string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(self), name)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("program %s: %w; run make, or name it with --%s", path, fs.ErrNotExist, name)
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
	epoch, err := imagebuild.EnvEpoch()
	if err != nil {
		return err
	}
	b, err := imagebuild.New(imagebuild.Options{Epoch: epoch, Progress: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	result, err := work(b)
	if err != nil {
		return err
	}
	return cli.Print(cmd, result, text(result))
}
