package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer/key"
)

func keysCommand() *cobra.Command {
	var arch, out string
	var lock lockFlags
	cmd := &cobra.Command{
		Use:   "keys --out DIR",
		Short: "Make keys for Secure Boot, and a medium that enrolls them",
		Long: `Make the three keys of Secure Boot in a new folder: PK (platform key), KEK (key exchange key)
and db (signs what firmware starts). Each has NAME.key, NAME.pem and NAME.der (certificate),
and NAME.auth (for the firmware). The keys have no passphrase: keep PK.key and KEK.key on an
offline medium, and db.key where images are made.

enroll.img is a FAT filesystem with systemd-boot. A machine whose firmware is in setup mode
enrolls the keys when it boots from it. Then it starts only programs that db signed.`,
		Example: `  phase-image keys --out sb
  phase-image uki --root repo/root.json --sb-key sb/db.key --sb-cert sb/db.pem --out uki-x86_64.efi`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			platform, err := imagebuild.ParsePlatform(arch, "generic") // the loader is the same for both flavours
			if err != nil {
				return err
			}
			return buildLocked(cmd, lock, func(b *imagebuild.Builder) (*imagebuild.KeysInfo, error) {
				return b.WriteKeys(cmd.Context(), platform, out)
			}, func(k *imagebuild.KeysInfo) string {
				return fmt.Sprintf("%s: PK, KEK, db; certificate of db: sha256 %s\n  %s enrolls them on a machine in setup mode\n", k.Out, k.SHA256, k.Enroll)
			})
		},
	}
	archFlag(cmd, &arch)
	lock.register(cmd)
	outFlag(cmd, &out, "the folder, which must not exist")
	return cmd
}

// signingFlags name the key for Secure Boot.
type signingFlags struct{ key, cert string }

func (f *signingFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "sb-key", "", "sign for Secure Boot with this RSA key: PEM without passphrase, or NAME://… of a KMS")
	cmd.Flags().StringVar(&f.cert, "sb-cert", "", "its certificate (PEM), which the firmware knows")
	cmd.MarkFlagsRequiredTogether("sb-key", "sb-cert")
}

// load returns nil without the flags.
func (f *signingFlags) load(cmd *cobra.Command) (*authenticode.Signer, error) {
	if f.key == "" {
		return nil, nil
	}
	return key.LoadSecureBoot(cmd.Context(), f.key, f.cert)
}
