package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// inputsHead is the comment at the beginning of inputs.lock.
const inputsHead = `# Debian packages of which images are made: name, version, architecture, sha256, path on a mirror.
# Written by: phase-image inputs --out FILE. Used by: phase-image usb --lock FILE (and the other formats).
`

func inputsCommand() *cobra.Command {
	var arch, out string
	cmd := &cobra.Command{
		Use:   "inputs",
		Short: "List the packages of today's images by version and sha256, for --lock",
		Long: `List the Debian packages of which this machine would make images today: name, version,
architecture, sha256, and path on a mirror, from the lists that Debian signs. The list covers both
flavours, all formats and boot loaders, Tor, and the root filesystem without --include.

A build with --lock FILE takes exactly the packages of the list. The file of the repository is
imagebuild/inputs.lock; make inputs renews it.`,
		Example: `  phase-image inputs --out inputs.lock
  phase-image inputs --arch x86_64
  phase-image usb --root repo/root.json --lock inputs.lock --out stick.img`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			archs := imagebuild.Archs()
			if arch != allArchs {
				if !slices.Contains(archs, arch) {
					return cli.Usagef("--arch %.40q: unknown; use one of %s, %s", arch, strings.Join(archs, ", "), allArchs)
				}
				archs = []string{arch}
			}
			var in imagebuild.Inputs
			return build(cmd, func(b *imagebuild.Builder) (result map[string]any, err error) {
				if in, err = b.NewestInputs(cmd.Context(), archs...); err == nil && out != "" {
					err = atomicfile.Write(out, 0o644, []byte(inputsHead+in.Text()))
				}
				return map[string]any{"out": out, "inputs": in}, err
			}, func(map[string]any) string {
				if out == "" {
					return inputsHead + in.Text()
				}
				return fmt.Sprintf("%s: %s\n", out, english.Plural(len(in), "package", ""))
			})
		},
	}
	cmd.Flags().StringVar(&arch, "arch", allArchs, "architecture of the images: "+strings.Join(imagebuild.Archs(), ", ")+" or "+allArchs)
	complete(cmd, "arch", append(imagebuild.Archs(), allArchs)...)
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: print the list)")
	return cmd
}

// lockFlags select the list of inputs of a build.
type lockFlags struct {
	file     string
	fallback bool
}

func (f *lockFlags) register(cmd *cobra.Command) {
	f.registerFile(cmd, "take exactly the packages of this list, which phase-image inputs writes (default: this machine's newest)")
	cmd.Flags().BoolVar(&f.fallback, "lock-fallback", false, "for --lock: if a package is gone from the mirrors, say so and take this machine's newest packages")
}

// registerFile adds the flag --lock alone.
func (f *lockFlags) registerFile(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.file, "lock", "", usage)
	if err := cmd.MarkFlagFilename("lock", "lock"); err != nil {
		panic(err) // cannot happen: the flag is defined above
	}
}

// apply returns a builder that takes the packages of the list.
func (f *lockFlags) apply(b *imagebuild.Builder) (*imagebuild.Builder, error) {
	if f.file == "" {
		if f.fallback {
			return nil, cli.Usagef("--lock-fallback is for --lock; name the list")
		}
		return b, nil
	}
	in, err := f.read()
	if err != nil {
		return nil, err
	}
	return b.Pinned(in, f.file, "renew the list with phase-image inputs --out "+f.file+", build without --lock, or add a source of snapshot.debian.org to apt"), nil
}

// read returns the packages of the list, none without --lock.
func (f *lockFlags) read() (imagebuild.Inputs, error) {
	if f.file == "" {
		return nil, nil
	}
	text, err := cli.ReadInput(f.file, "list of inputs", imagebuild.MaxInputs)
	if err != nil {
		return nil, err
	}
	in, err := imagebuild.ParseInputs(text)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w; name a list that phase-image inputs has written", f.file, err)
	}
	return in, nil
}
