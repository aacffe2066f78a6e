// Command plasmd runs a release's WASM job and signs a receipt of it.
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
		Short: "Runs a release's WASM job and signs a receipt of it",
	}
	root.AddCommand(runCommand(), verifyCommand(), engineCommand())
	return root
}
