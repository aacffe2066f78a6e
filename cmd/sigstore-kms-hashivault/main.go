// Command sigstore-kms-hashivault is the plugin program that phase-sign runs for
// --key hashivault://NAME: it asks Vault or OpenBao to sign. Everything it does is in
// package vault.
package main

import (
	"fmt"
	"os"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/vault"
)

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("sigstore-kms-hashivault", cli.Version())
		return cli.ExitOK
	}
	return vault.Plugin(os.Args, os.Stdin, os.Stdout)
}
