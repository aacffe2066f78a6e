// Command flood is a hostile job: it writes without end, to stdout and to stderr in turn. It ends at the
// limit of output. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

import (
	"bytes"
	"os"
)

func main() {
	lines := bytes.Repeat([]byte("flood\n"), 1000)
	for {
		_, _ = os.Stdout.Write(lines) // the job does not stop when it is refused
		_, _ = os.Stderr.Write(lines)
	}
}
