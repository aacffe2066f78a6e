// Command spin is a hostile job: it computes for as long as it may, which would be centuries. It ends at the
// limit of time, or of processor time. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

import "os"

func main() {
	sum := uint64(1)
	for n := uint64(1); n > 0; n++ {
		sum = sum*31 + n
	}
	os.Exit(int(sum & 1))
}
