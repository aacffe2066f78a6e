package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/imagebuild/attest"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer/key"
)

// rebuildFlags name what a rebuild needs beside the image.
type rebuildFlags struct {
	build       imagebuild.Rebuild
	phaseBoot   string
	authorities authorityFlag
	lock        lockFlags
}

// register adds the flags. when begins their help.
func (f *rebuildFlags) register(cmd *cobra.Command, when string) {
	cmd.Flags().StringVar(&f.build.Flavour, "flavour", "", when+"vm or generic (default: that of the image's kernel)")
	complete(cmd, "flavour", "vm", "generic")
	cmd.Flags().StringVar(&f.phaseBoot, "phase-boot", "", when+"static phase-boot program (default: the one next to this program)")
	cmd.Flags().StringVar(&f.build.KernelFrom, "kernel", "", when+"kernel package (.deb), or folder with the files of one (default: the kernel that the image lists)")
	cmd.Flags().BoolVar(&f.build.Newest, "newest", false, when+"take this machine's newest packages, not those that the image lists")
	f.authorities.register(cmd, when+"certificate authority with which the image was made (PEM); repeatable")
	f.lock.registerFile(cmd, when+"list of packages that you trust, beside those that Debian's lists name (phase-image inputs writes one)")
}

// read returns the input of a rebuild.
func (f *rebuildFlags) read() (r imagebuild.Rebuild, err error) {
	r = f.build
	r.PhaseBoot = func(arch string) (string, error) { return siblingProgram(f.phaseBoot, "phase-boot", arch) }
	if r.Authorities, err = f.authorities.read(); err != nil {
		return r, err
	}
	r.Trusted, err = f.lock.read()
	return r, err
}

func rebuildCommand() *cobra.Command {
	var f rebuildFlags
	var sign, out, passFile string
	cmd := &cobra.Command{
		Use:   "rebuild IMAGE|DEVICE",
		Short: "Build an image again, compare every byte, and sign a statement",
		Long: `Build an image again from its own description: the packages that it lists by sha256, its
root.json, channel, modes, command line and date. Then compare every byte. If one differs, the
exit code is 5, and the message names the first part that differs (partition, file, section of
a UKI, member of the initramfs) with both digests.

IMAGE is made by usb, iso, qcow2, vmdk, vhdx, parallels, esp, uki or initramfs. The phase-boot
program must be the one in the image: build it from the same commit. The cache partition of a
stick may differ, because machines write to it.

With --sign, an equal image gets a statement: in-toto Statement v1 with SLSA provenance, in a
DSSE envelope. phase-image verify --attestation demands such statements. Each package that the
image lists must then be in a list that Debian signs (apt's lists on this machine), or in that of
--lock; otherwise the exit code is 3. Without --sign, the output only notes such a package.`,
		Example: `  phase-image rebuild stick.img
  phase-image rebuild --sign rebuilder.key --out stick.img.ann.json stick.img
  phase-image --json rebuild uki-x86_64.efi`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.read()
			if err != nil {
				return err
			}
			sig, err := openStatementKey(cmd.Context(), sign, passFile) // before the work begins
			if err != nil {
				return err
			}
			var result *imagebuild.Rebuilt
			err = build(cmd, func(b *imagebuild.Builder) (*imagebuild.Rebuilt, error) {
				result, err = b.Rebuild(cmd.Context(), args[0], r)
				if err == nil && result.Equal && sign != "" {
					err = writeStatement(cmd.Context(), result, sig, out)
				}
				return result, err
			}, func(r *imagebuild.Rebuilt) string { return rebuiltText(r, out) })
			if err == nil {
				err = result.Err()
			}
			return err
		},
	}
	f.register(cmd, "")
	cmd.Flags().StringVar(&sign, "sign", "", "sign a statement with this key if the image is equal: PEM file, ssh-agent:SHA256:…, or the URI of a KMS")
	cmd.Flags().StringVar(&out, "out", "", "file to write: the statement")
	cmd.Flags().StringVar(&passFile, "passphrase-file", "", "file whose first line is the passphrase of the key")
	cmd.MarkFlagsRequiredTogether("sign", "out")
	return cmd
}

// openStatementKey opens the key of a rebuilder, none if it is not named.
func openStatementKey(ctx context.Context, uri, passFile string) (key.Key, error) {
	if uri == "" {
		return key.Key{}, nil
	}
	return key.Load(ctx, uri, key.Passphrases(passFile))
}

// writeStatement signs a statement about an image.
func writeStatement(ctx context.Context, r *imagebuild.Rebuilt, k key.Key, out string) error {
	s, err := attest.New(r, k.Public(), cli.Version())
	if err != nil {
		return err
	}
	data, err := attest.Sign(ctx, s, k.Signer(), k.Public())
	if err != nil {
		return fmt.Errorf("key %s: %w", k.Name(), err)
	}
	return atomicfile.Write(out, 0o644, data)
}

func rebuiltText(r *imagebuild.Rebuilt, statement string) string {
	if !r.Equal {
		return "" // the error says it
	}
	var w strings.Builder
	what := "every byte"
	if r.CacheDiffers {
		what = "every byte outside the cache partition, to which machines write"
	}
	if n := len(r.Renewed); n > 0 {
		what = fmt.Sprintf("its built boot set; %d renewed ones, which start first, were not compared: phase-image verify --repo does that", n)
	}
	fmt.Fprintf(&w, "%s: equal to its rebuild in %s\n", r.Image, what)
	if r.SHA256 != "" && !r.CacheDiffers {
		fmt.Fprintf(&w, "  sha256     %s\n", r.SHA256)
	}
	for i, p := range r.Inputs {
		fmt.Fprintf(&w, "  %-10s %s %s\n", []string{"inputs", ""}[min(i, 1)], p.Name, p.Version)
	}
	if r.Unlisted != nil {
		fmt.Fprintf(&w, "  %-10s %v\n", "note", r.Unlisted)
	}
	if statement != "" {
		fmt.Fprintf(&w, "  statement  %s\n", statement)
	}
	return w.String()
}

// attestationFlags demand statements of rebuilders.
type attestationFlags struct {
	files, rebuilders []string
	threshold         int
}

func (f *attestationFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.files, "attestation", nil, "statement of a rebuilder about the image, which rebuild --sign writes; repeatable")
	cmd.Flags().StringArrayVar(&f.rebuilders, "rebuilder", nil, "public key of a rebuilder whose statement counts; repeatable; exit code 3 if too few have signed")
	cmd.Flags().IntVar(&f.threshold, "threshold", 0, "how many of the rebuilders must have signed (default: all)")
}

// demanded is what a verdict needs beside the image.
type demanded struct {
	files     []attest.File
	keys      []ed25519.PublicKey
	threshold int
}

// read returns nil if no statement is demanded.
func (f *attestationFlags) read(ctx context.Context) (*demanded, error) {
	switch {
	case len(f.rebuilders) == 0 && (len(f.files) > 0 || f.threshold != 0):
		return nil, cli.Usagef("--rebuilder is missing; name the public keys of the rebuilders whose statements count")
	case len(f.rebuilders) == 0:
		return nil, nil
	}
	d := &demanded{threshold: cmp.Or(f.threshold, len(f.rebuilders))}
	for _, name := range f.rebuilders {
		k, err := key.LoadPublic(ctx, name, nil)
		if err != nil {
			return nil, err
		}
		d.keys = append(d.keys, k)
	}
	for _, name := range f.files {
		data, err := cli.ReadInput(name, "statement", attest.MaxFile)
		if err != nil {
			return nil, err
		}
		d.files = append(d.files, attest.File{Name: name, Data: data})
	}
	return d, attest.CheckDemand(d.keys, d.threshold)
}

// verdictText says which statements count.
func verdictText(v *attest.Verdict) string {
	if v == nil {
		return ""
	}
	var w strings.Builder
	for i, a := range v.Accepted {
		what := "the whole image"
		if !a.Whole {
			what = "its EFI system partition"
		}
		fmt.Fprintf(&w, "  %-10s %s rebuilt %s (%s)\n", []string{"attested", ""}[min(i, 1)], a.KeyID[:16], what, printable(a.File, 120))
	}
	for _, r := range v.Refused {
		fmt.Fprintf(&w, "  %-10s %s\n", "refused", printable(r.File+": "+r.Reason, 500))
	}
	return w.String()
}

// attested is the JSON of an image with the verdict about its statements.
type attested struct {
	*imagebuild.Contents
	Attestations *attest.Verdict `json:"attestations,omitempty"`
}
