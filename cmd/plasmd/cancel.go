package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

func cancelCommand() *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a job that waits or runs",
		Long: `Cancel takes a job out of the queue, or stops it. The job has a receipt, which says that it was
cancelled. A job that is done stays as it is.`,
		Example: `  plasmd cancel 3f9a12c4
  plasmd cancel --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… 3f9a12c4…`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: f.complete,
		RunE: f.onJob(func(cmd *cobra.Command, m client.Machine, job api.Job) (err error) {
			if job.State != api.StateDone {
				if job, err = m.Client.Cancel(cmd.Context(), job.ID); err != nil {
					return named(m, err)
				}
			}
			text := fmt.Sprintf("job %s on %s: is being stopped\n", job.ID[:shortID], m.Name)
			if job.State == api.StateDone {
				text = fmt.Sprintf("job %s on %s: done (%s)\n", job.ID[:shortID], m.Name, ending(job))
			}
			return cli.Print(cmd, listed{job, m.Name}, text)
		}),
	}
	f.register(cmd)
	return cmd
}
