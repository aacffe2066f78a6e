// Command byhand writes the hostile jobs that no compiler makes to a folder: table.wasm, imports.wasm and
// compilebomb.wasm. `make jobs` runs it. The modules are in plasm/wasmtest.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "byhand: give one folder")
		os.Exit(2)
	}
	for name, module := range wasmtest.Jobs() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name+".wasm"), module, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "byhand:", err)
			os.Exit(1)
		}
	}
}
