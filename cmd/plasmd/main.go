// Command plasmd runs WebAssembly jobs and signs receipts: the job of a release, and those that it is asked for
// through its daemon.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand())) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "plasmd",
		Short: "Runs WebAssembly jobs in sandboxes, here and on other machines, and signs receipts",
		Example: `  plasmd run bin/hello.wasm
  plasmd serve
  plasmd submit bin/hello.wasm`,
	}
	root.AddCommand(runCommand(), serveCommand(), verifyCommand(), engineCommand())
	root.AddCommand(submitCommand(), listCommand(), topCommand(), showCommand(), logsCommand(), cancelCommand(), receiptCommand())
	return root
}
