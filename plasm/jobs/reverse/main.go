// Command reverse is a job that writes its input backwards, line by line, as rev(1) does. It needs the
// grant of stdin. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if err := reverse(os.Stdout, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "reverse:", err)
		os.Exit(1)
	}
}

// reverse copies each line of r to w with its characters in reverse order. The line end stays.
func reverse(w io.Writer, r io.Reader) error {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	for {
		line, err := in.ReadString('\n')
		text, found := strings.CutSuffix(line, "\n")
		runes := []rune(text)
		slices.Reverse(runes)
		if found {
			runes = append(runes, '\n')
		}
		if _, err := out.WriteString(string(runes)); err != nil {
			return err
		}
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
	}
}
