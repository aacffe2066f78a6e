// Command plasmd runs the WebAssembly job of a release and signs a receipt of the run.
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
		Short: "Runs the WebAssembly job of a release and signs a receipt of the run",
	}
	root.AddCommand(runCommand(), verifyCommand(), engineCommand())
	return root
}
