// Command ordinary is a job of the size that Go programs have: 5 MB, for two packages that
// many of them use.
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

func main() {
	if err := json.NewEncoder(os.Stdout).Encode(os.Args); err != nil {
		os.Exit(1)
	}
	if err := template.Must(template.New("").Parse("hello, {{.}}\n")).Execute(os.Stdout, "ordinary job"); err != nil {
		os.Exit(1)
	}
}
