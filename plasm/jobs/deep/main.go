// Command deep is a hostile job: it calls itself again and again before the first call returns. It ends at
// the engine's limit of nested calls. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

import "os"

// dive is not a loop for the compiler: it has something to do after it returns.
func dive(n int) int {
	if n < 0 {
		return n
	}
	return dive(n+1) + n
}

func main() { os.Exit(dive(0) & 1) }
