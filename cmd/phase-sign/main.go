// Command phase-sign is the tool of a signer: it makes keys and a repository, writes and signs
// release manifests, and shows and verifies files that others signed. Flags and help texts are here,
// the functions in package signer. It opens no network connection.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand())) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "phase-sign",
		Short: "Decide what machines may run",
		Long: `phase-sign makes keys, creates a release repository, and writes, reviews and signs
release manifests. A key is a PEM file, ssh-agent:SHA256:… or NAME://… for a KMS whose
plugin program sigstore-kms-NAME is in PATH. Passphrases come from --passphrase-file,
from PHASE_KEY_PASSPHRASE, or from the terminal.

Exit codes: 0 done, 1 failed, 2 usage, 3 untrusted, 4 not found, 5 corrupt, 130 interrupted.`,
		Example: `  phase-sign key generate --out keys/release
  phase-sign release --repo repo --channel stable --arch x86_64 --release 2026.11.1 --kernel vmlinuz --initramfs initramfs.zst --key keys/release --out RELEASE.json
  phase-sign show --repo repo RELEASE.json`,
	}
	root.AddCommand(newKey(), newInit(), newRelease(), newPromote(), newRollback(), newRollout(), newHold(), newConfig(), newRotate(), newCID(), newAdd(), newShow(), newVerify(), newHistory(), newChannels())
	return root
}
