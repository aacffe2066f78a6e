package main

import (
	"context"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

// rotateFlags are the flags of rotate: those that name keys, and the spec with the others.
type rotateFlags struct {
	spec                      signer.RotateSpec
	keys, addRoot, removeRoot []string
	removeIPNS                []string
	addRelease, removeRelease []string
	configKeys                []string
	online, ipns, passFile    string
}

func newRotate() *cobra.Command {
	f := rotateFlags{spec: signer.RotateSpec{RootLifetime: rootLifetime, TargetsLifetime: rootLifetime}}
	cmd := &cobra.Command{
		Use:   "rotate --repo DIR --key KEY",
		Short: "Make the next root and targets: other keys, thresholds, channels, dates",
		Long: `rotate writes the next root or the next targets of a repository, or both. Without any change it
renews both with later dates. A key to remove is named by its .pub file or by eight or more digits
of its key ID, as 'phase-sign show' prints them. A new root is valid when enough keys of the old
root and enough keys of the new root have signed it. If other people have to sign, --out makes a
folder for them: each runs 'phase-sign add' on the new files in it, and the complete files are
copied into the repository.`,
		Example: `  phase-sign rotate --repo repo --key keys/root --online-key keys/online2.pub
  phase-sign rotate --repo repo --key a.key --add-root-key d.key.pub --remove-root-key c.key.pub --out next
  phase-sign rotate --repo repo --key keys/root --channel stable --add-release-key r2.pub --remove-release-key 3f5c0a1b
  phase-sign rotate --repo repo --key keys/root --channel testing --arch x86_64 --add-release-key t.pub
  phase-sign rotate --repo repo --key keys/root --config
  phase-sign rotate --repo repo --key keys/root --root-expires 365d --targets-expires 365d`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.load(cmd.Context()); err != nil {
				return err
			}
			result, err := signer.Rotate(cmd.Context(), f.spec)
			if err != nil {
				return err
			}
			return cli.Print(cmd, result, result.Words(f.spec.Now))
		},
	}
	f.define(cmd)
	require(cmd, "repo", "key")
	return cmd
}

func (f *rotateFlags) define(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Repo, "repo", "", "repository, as init made it")
	fl.StringVar(&f.spec.Out, "out", "", "folder for the new files, for the other signers (default: the repository, if the files are complete)")
	fl.StringArrayVar(&f.keys, "key", nil, "root key to sign with, of the old or the new root (repeatable)")
	fl.StringArrayVar(&f.addRoot, "add-root-key", nil, "root key to add; a private key signs too (repeatable)")
	fl.StringArrayVar(&f.removeRoot, "remove-root-key", nil, "root key to remove, a .pub file or a key ID (repeatable)")
	fl.IntVar(&f.spec.RootThreshold, "root-threshold", 0, "how many root keys must sign (default: as before)")
	fl.StringVar(&f.online, "online-key", "", "the publisher's new key for snapshot and timestamp")
	fl.StringVar(&f.ipns, "ipns-key", "", "key of an IPNS name to add as the first one")
	fl.StringArrayVar(&f.removeIPNS, "remove-ipns-key", nil, "IPNS name to remove, k51… or the .pub file of its key (repeatable)")
	fl.StringArrayVar(&f.spec.HTTPS, "https", nil, "URL of a mirror; replaces the old list (repeatable)")
	fl.StringArrayVar(&f.spec.Bootstrap, "bootstrap", nil, "multiaddr with /p2p/ID of a first DHT peer; replaces the old list (repeatable)")
	fl.StringArrayVar(&f.spec.Channels, "channel", nil, "channel whose release keys change; a new channel is made (default: all; repeatable)")
	fl.StringArrayVar(&f.spec.Archs, "arch", nil, "architecture whose release keys change (default: all; repeatable)")
	fl.StringArrayVar(&f.addRelease, "add-release-key", nil, "release key to add (repeatable)")
	fl.StringArrayVar(&f.removeRelease, "remove-release-key", nil, "release key to remove, a .pub file or a key ID (repeatable)")
	fl.IntVar(&f.spec.ReleaseThreshold, "release-threshold", 0, "how many release keys must sign (default: as before)")
	fl.BoolVar(&f.spec.Config, "config", false, "add the role config, which signs the settings of machines, with the release keys of the first channel")
	fl.StringArrayVar(&f.configKeys, "config-key", nil, "key of the role config, in place of those that it has (repeatable)")
	fl.IntVar(&f.spec.ConfigThreshold, "config-threshold", 0, "how many keys of the role config must sign (default: as before, 1 with --config-key)")
	lifetimeFlag(cmd, &f.spec.RootLifetime, "root-expires", "how long the new root is valid")
	lifetimeFlag(cmd, &f.spec.TargetsLifetime, "targets-expires", "how long the new delegations are valid")
	passphraseFlag(cmd, &f.passFile)
}

// load opens the keys that the flags name.
func (f *rotateFlags) load(ctx context.Context) (err error) {
	pass := passphrases(f.passFile)
	f.spec.Now = time.Now()
	if f.spec.Keys, err = loadKeys(ctx, f.keys, pass); err != nil {
		return err
	}
	warnExposed(f.addRoot...)
	if f.spec.AddRoot, err = loadAll(ctx, f.addRoot, pass, key.LoadListed); err != nil {
		return err
	}
	if f.spec.AddRelease, err = loadAll(ctx, f.addRelease, pass, key.LoadPublic); err != nil {
		return err
	}
	if f.spec.ConfigKeys, err = loadAll(ctx, f.configKeys, pass, key.LoadPublic); err != nil {
		return err
	}
	if f.spec.RemoveRoot, err = loadAll(ctx, f.removeRoot, pass, keyID); err != nil {
		return err
	}
	if f.spec.RemoveRelease, err = loadAll(ctx, f.removeRelease, pass, keyID); err != nil {
		return err
	}
	if f.spec.RemoveIPNS, err = loadAll(ctx, f.removeIPNS, pass, ipnsName); err != nil {
		return err
	}
	if f.online != "" {
		if f.spec.Online, err = key.LoadPublic(ctx, f.online, pass); err != nil {
			return err
		}
	}
	if f.ipns != "" {
		f.spec.IPNS, err = key.LoadPublic(ctx, f.ipns, pass)
	}
	return err
}

var idGrammar = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// keyID returns the ID of a key that is named by file or by ID: the file of a key may be lost.
func keyID(ctx context.Context, name string, pass key.PassFunc) (string, error) {
	if _, err := os.Stat(name); err != nil && idGrammar.MatchString(name) {
		return name, nil
	}
	public, err := key.LoadPublic(ctx, name, pass)
	if err != nil {
		return "", err
	}
	return manifest.KeyID(public), nil
}

// ipnsName returns an IPNS name, or the name of the key in a file.
func ipnsName(ctx context.Context, name string, pass key.PassFunc) (string, error) {
	if strings.HasPrefix(name, "k51") {
		return name, nil
	}
	public, err := key.LoadPublic(ctx, name, pass)
	if err != nil {
		return "", err
	}
	return ipnsname.Of(public)
}
