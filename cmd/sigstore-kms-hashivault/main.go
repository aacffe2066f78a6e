// Command sigstore-kms-hashivault is the plugin program that phase-sign and phase-publish run for
// the key hashivault://NAME: Vault or OpenBao signs. All its code is in package vault.
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
