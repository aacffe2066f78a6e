package main

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

// patience is how long a machine may be unreachable while its job is followed.
const patience = 2 * time.Minute

func logsCommand() *cobra.Command {
	var f targetFlags
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print the output of a job",
		Long: `Logs prints what a job has written so far: its stdout to stdout, its stderr to stderr. With --follow
it goes on until the job is done, also if the connection is lost in between. On a terminal, control
characters in the output become '?'. With --json the output is a line of JSON for each part of it.

Exit code 0 says that the output was printed; how the job ended, 'plasmd show' says.`,
		Example: `  plasmd logs 3f9a12c4
  plasmd logs --follow --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… 3f9a12c4…`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: f.complete,
		RunE: f.onJob(func(cmd *cobra.Command, m client.Machine, job api.Job) (err error) {
			stdout, stderr := jobOutput(cmd)
			if follow {
				_, err = m.Client.Follow(cmd.Context(), job.ID, math.MaxInt64, patience, stdout, stderr)
			} else {
				err = m.Client.Output(cmd.Context(), job.ID, false, func(line api.Line) error {
					to := stdout
					if line.Stream == api.Stderr {
						to = stderr
					}
					_, err := to.Write(line.Data)
					return err
				})
			}
			if errors.Is(err, context.Canceled) {
				return err
			}
			return named(m, err)
		}),
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until the job is done")
	return cmd
}
