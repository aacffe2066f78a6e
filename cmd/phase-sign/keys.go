package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer/key"
)

func newKey() *cobra.Command {
	return cli.Group(&cobra.Command{Use: "key", Short: "Make keys", Example: "  phase-sign key generate --out keys/release"}, newGenerate())
}

func newGenerate() *cobra.Command {
	var out, passFile string
	var plain bool
	cmd := &cobra.Command{
		Use:   "generate --out KEY",
		Short: "Make an Ed25519 key: KEY (mode 0600, encrypted) and KEY.pub",
		Example: `  phase-sign key generate --out keys/release
  phase-sign key generate --out keys/online --passphrase-file /run/secrets/online
  phase-sign key generate --out keys/throw-away --no-passphrase`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pass := passphrases(passFile)
			if plain {
				pass = nil
			}
			k, err := key.Generate(cmd.Context(), out, pass)
			if err != nil {
				return err
			}
			return printKey(cmd, k)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to make; KEY.pub is made in the same folder")
	passphraseFlag(cmd, &passFile)
	cmd.Flags().BoolVar(&plain, "no-passphrase", false, "write the key without encryption: for throw-away keys")
	cmd.MarkFlagsMutuallyExclusive("passphrase-file", "no-passphrase")
	require(cmd, "out")
	return cmd
}

func printKey(cmd *cobra.Command, k key.Key) error {
	result := struct {
		Key    string `json:"key"`
		Public string `json:"public"`
		ID     string `json:"key_id"`
		Hex    string `json:"ed25519"`
	}{k.Name(), k.Name() + ".pub", k.ID(), hex.EncodeToString(k.Public())}
	return cli.Print(cmd, result, fmt.Sprintf("%s and %s\nkey ID %s\n", result.Key, result.Public, result.ID))
}

const (
	releaseLifetime = 30 * 24 * time.Hour
	rootLifetime    = 365 * 24 * time.Hour // of a root and of targets
)

// lifetimeFlag adds a flag for the time until a file expires. The default is the value of d.
func lifetimeFlag(cmd *cobra.Command, d *time.Duration, name, usage string) {
	cli.DurationVar(cmd.Flags(), d, name, 36500, usage)
}

func passphraseFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "passphrase-file", "", "read the passphrase from the first line of this file")
}

// require marks flags that must be given and not empty.
func require(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is not defined: a mistake in this package
		}
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range names {
			f := cmd.Flag(name)
			if v := f.Value.String(); f.Changed && (v == "" || v == "[]") {
				return cli.Usagef("--%s is empty; see '%s --help'", name, cmd.CommandPath())
			}
		}
		return nil
	}
}

// passphrases is key.Passphrases, with a warning about a file that other users can read.
func passphrases(file string) key.PassFunc {
	warnExposed(file)
	return key.Passphrases(file)
}

// warnExposed warns about key and passphrase files that other users can read or write.
func warnExposed(files ...string) {
	if err := key.CheckExposed(files...); err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(os.Stderr, "phase-sign: warning:", strings.TrimSuffix(line, "\n"))
		}
	}
}

// loadKeys opens the keys to sign with.
func loadKeys(ctx context.Context, uris []string, pass key.PassFunc) ([]key.Key, error) {
	warnExposed(uris...)
	return loadAll(ctx, uris, pass, key.Load)
}

// loadAll calls load for each name of a key. It returns nil for no names.
func loadAll[T any](ctx context.Context, names []string, pass key.PassFunc, load func(context.Context, string, key.PassFunc) (T, error)) (list []T, err error) {
	for _, name := range names {
		v, err := load(ctx, name, pass)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}
