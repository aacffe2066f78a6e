// Command phase-publish stores releases and serves them to booting machines: it adds what
// phase-sign signed, runs the daemon or a DHT bootstrap node, exports mirrors, and cares for
// the store. Flags and texts are here, the logic is in package publisher and below it.
package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand())) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "phase-publish",
		Short: "Store and serve signed releases",
		Long: `phase-publish stores releases and serves them. It has the online key, which signs that a
release is current, and never a release key: it can withhold releases, not forge one.
Passphrases come from --passphrase-file, from PHASE_KEY_PASSPHRASE, or from the terminal.

Exit codes: 0 done, 1 failed, 2 usage, 3 untrusted, 4 not found, 5 corrupt, 130 interrupted.`,
		Example: `  phase-publish add --store store --repo repo --artifacts build --online-key keys/online RELEASE.json
  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns
  phase-publish status --store store --repo repo`,
	}
	root.AddCommand(newAdd(), newConfig(), newServe(), newBootstrap(), newStatus(), newExport(), newGet(), newFsck(), newGC(), newStats(), newMachines())
	return root
}

// require marks flags as required.
func require(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is not defined: a mistake in this package
		}
	}
}

const storeUsage = "folder of the store, or s3://BUCKET/PREFIX[?endpoint=URL]"

// storeFlags registers --store and --repo, which are required.
func storeFlags(cmd *cobra.Command, store, repo *string) {
	cmd.Flags().StringVar(store, "store", "", storeUsage)
	cmd.Flags().StringVar(repo, "repo", "", "folder of the repository, made by phase-sign init")
	require(cmd, "store", "repo")
}

func stderrLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
