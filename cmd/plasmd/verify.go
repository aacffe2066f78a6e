package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm"
)

const maxReceipt = 64 << 10

func verifyCommand() *cobra.Command {
	var keyPath string
	cmd := &cobra.Command{
		Use:   "verify RECEIPT",
		Short: "Check a receipt's fields and signature",
		Long: `Verify checks that a receipt was not changed since a machine signed it. The receipt names
the key of the machine. With --key, the receipt must name this key: only that shows which
machine signed it.`,
		Example: `  plasmd run --receipt receipt.json --key machine.key bin/hello.wasm
  plasmd verify receipt.json --key machine.key.pub`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return verify(cmd, args[0], keyPath) },
	}
	cmd.Flags().StringVar(&keyPath, "key", "", "the machine's public key, Ed25519 in PKIX PEM")
	return cmd
}

// verified is the result of verify with --json.
type verified struct {
	Receipt plasm.Receipt `json:"receipt"`
	Known   bool          `json:"known_machine"` // --key was given and matches
}

func verify(cmd *cobra.Command, path, keyPath string) error {
	key, err := readKey(keyPath, "public key", plasm.ParsePublicKey)
	if err != nil {
		return err
	}
	data, err := cli.ReadInput(path, "receipt", maxReceipt)
	if err != nil {
		return err
	}
	receipt, err := plasm.ParseReceipt(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := receipt.Verify(key); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return cli.Print(cmd, verified{receipt, key != nil}, describe(receipt, key != nil))
}

// describe returns the receipt as text for a person.
func describe(r plasm.Receipt, known bool) string {
	signer := "the key that --key names"
	switch {
	case r.Machine.Ephemeral && !known:
		signer = "a key made for that run, which identifies no machine"
	case !known:
		signer = "the key that it names; use --key to check which machine this is"
	}
	from := "a file"
	if r.Release != nil {
		from = fmt.Sprintf("release %s of %s-%s", r.Release.Version, r.Release.Channel, r.Release.Arch)
	}
	return fmt.Sprintf(`receipt: unchanged, signed by %s
machine  %s
job      %s from %s
started  %s, took %d ms, memory peak %d bytes
ended    %s, exit code %d, output %d bytes
`, signer, r.Machine.Key, r.Module.CID, from, r.Started, r.DurationMS, r.MemoryPeak, r.Reason, r.ExitCode, r.Output.Length)
}
