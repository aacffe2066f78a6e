package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestMainExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		fail error
		want int
	}{
		"done":                               {[]string{"sub", "do", "--need", "x"}, nil, ExitOK},
		"version":                            {[]string{"--version"}, nil, ExitOK},
		"shell":                              {[]string{"completion", "bash"}, nil, ExitOK},
		"unknown shell":                      {[]string{"completion", "foo"}, nil, ExitUsage},
		"no shell":                           {[]string{"completion"}, nil, ExitUsage},
		"a shell and more":                   {[]string{"completion", "bash", "x"}, nil, ExitUsage},
		"help of a verb":                     {[]string{"help", "sub", "do"}, nil, ExitOK},
		"help of an unknown verb":            {[]string{"help", "nope"}, nil, ExitUsage},
		"help of an unknown verb of a group": {[]string{"help", "sub", "nope"}, nil, ExitUsage},
		"version of a verb":                  {[]string{"sub", "--version"}, nil, ExitUsage},
		"wrong verb, flag":                   {[]string{"sub", "dp", "--need", "x"}, nil, ExitUsage},
		"interrupted":                        {[]string{"sub", "do", "--need", "x"}, context.Canceled, ExitInterrupted},
		"corrupt":                            {[]string{"sub", "do", "--need", "x"}, cas.ErrCorrupt, ExitCorrupt},
		"unreachable":                        {[]string{"sub", "do", "--need", "x"}, cas.ErrUnreachable, ExitNotFound},
		"read-only":                          {[]string{"sub", "do", "--need", "x"}, syscall.EROFS, ExitFailed},
		"full disk":                          {[]string{"sub", "do", "--need", "x"}, syscall.ENOSPC, ExitFailed},
		"help":                               {[]string{"--help"}, nil, ExitOK},
		"unknown command":                    {[]string{"nonsense"}, nil, ExitUsage},
		"unknown subcommand":                 {[]string{"sub", "nonsense"}, nil, ExitUsage},
		"group alone":                        {[]string{"sub"}, nil, ExitUsage},
		"unknown flag":                       {[]string{"sub", "do", "--nonsense"}, nil, ExitUsage},
		"required flag":                      {[]string{"sub", "do"}, nil, ExitUsage},
		"argument":                           {[]string{"sub", "do", "--need", "x", "y"}, nil, ExitUsage},
		"failure":                            {[]string{"sub", "do", "--need", "x"}, fs.ErrPermission, ExitFailed},
		"missing file":                       {[]string{"sub", "do", "--need", "x"}, fmt.Errorf("kernel: %w", fs.ErrNotExist), ExitNotFound},
		"directory":                          {[]string{"sub", "do", "--need", "x"}, syscall.EISDIR, ExitUsage},
		"unacceptable input":                 {[]string{"sub", "do", "--need", "x"}, fs.ErrInvalid, ExitUsage},
		"metadata of an unknown key":         {[]string{"sub", "do", "--need", "x"}, manifest.ErrSignature, ExitUntrusted},
		"a job's own code":                   {[]string{"sub", "do", "--need", "x"}, fmt.Errorf("on m: %w", Exitf(77, "exit code 77")), 77},
		"a job's code with more than 8 bits": {[]string{"sub", "do", "--need", "x"}, Exitf(256, "exit code 256"), ExitFailed},
		"a job that ends with 0":             {[]string{"sub", "do", "--need", "x"}, Exitf(0, "limit"), ExitFailed},
		"garbled metadata":                   {[]string{"sub", "do", "--need", "x"}, manifest.ErrMalformed, ExitCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			do := &cobra.Command{Use: "do", Args: Args(cobra.NoArgs), RunE: func(*cobra.Command, []string) error { return c.fail }}
			do.Flags().String("need", "", "")
			if err := do.MarkFlagRequired("need"); err != nil {
				t.Fatal(err)
			}
			root := &cobra.Command{Use: "tool"}
			root.AddCommand(Group(&cobra.Command{Use: "sub"}, do))
			root.SetArgs(c.args)
			root.SetOut(os.Stderr)
			if got := Main(root); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
		})
	}
}
