// Command ordinary is a job of the usual size of a Go program: 5 MB, with two packages that many programs
// use.
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
