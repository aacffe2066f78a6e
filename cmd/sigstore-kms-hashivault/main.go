// Command sigstore-kms-hashivault is the plugin program that phase-sign runs for
// --key hashivault://NAME: it asks Vault or OpenBao to sign. Everything it does is in
// package vault.
package main

import (
	"os"

	"github.com/phaseboot/phaseboot/internal/vault"
)

func main() { os.Exit(vault.Plugin(os.Args, os.Stdin, os.Stdout)) }
