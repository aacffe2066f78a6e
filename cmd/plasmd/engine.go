package main

import (
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm"
)

// engineVerb is the verb with which plasmd starts itself to run a job in a process of its own.
const engineVerb = "engine"

func engineCommand() *cobra.Command {
	return &cobra.Command{
		Use:    engineVerb,
		Short:  "Run the job that the parent process sends",
		Hidden: true,
		Args:   cli.Args(cobra.NoArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return plasm.Serve(cmd.Context()) },
	}
}
