// Command phase-publish keeps releases and serves them to booting machines: it ingests
// what phase-sign signed, runs the daemon, runs a DHT bootstrap node, and says what is
// published. Flags and words are here, the work is in package publisher.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand())) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "phase-publish",
		Short: "Keep and serve signed releases",
		Long: `phase-publish keeps releases and serves them. It holds the online key, which signs
that a release is current, and never a release key: it can withhold releases, not forge
one. Passphrases come from --passphrase-file, from PHASE_KEY_PASSPHRASE, or from the
terminal.

Exit codes: 0 done, 1 failed, 2 usage, 3 untrusted, 4 not found, 5 corrupt, 130 interrupted.`,
	}
	root.AddCommand(newAdd(), newServe(), newBootstrap(), newStatus(), newExport(), newGet(), newFsck(), newGC(), newStats())
	return root
}

// require marks flags that the command cannot do without.
func require(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag that is not defined: a slip in this folder
		}
	}
}
