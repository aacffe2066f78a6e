// Command hog is a hostile job: it allocates memory without end, and writes to each page. It ends at the
// limit of memory. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

const (
	page  = 4 << 10
	block = 1 << 20
)

// kept keeps the garbage collector from freeing the blocks.
var kept [][]byte

func main() {
	for {
		b := make([]byte, block)
		for i := 0; i < len(b); i += page {
			b[i] = 1
		}
		kept = append(kept, b)
	}
}
