package main

import (
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

func receiptCommand() *cobra.Command {
	var f targetFlags
	var out string
	cmd := &cobra.Command{
		Use:   "receipt ID",
		Short: "Print the signed receipt of a job",
		Long: `Receipt prints the receipt of a job that is done: a DSSE envelope, one line of JSON. It must be about
this job and signed by the key that the machine says it has; anything else is refused (exit code 3).
'plasmd verify' checks a receipt again, and against a release and the module.`,
		Example: `  plasmd receipt 3f9a12c4 > receipt.json
  plasmd receipt --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… --out receipt.json 3f9a12c4…
  plasmd verify receipt.json`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: f.complete,
		RunE: f.onJob(func(cmd *cobra.Command, m client.Machine, job api.Job) error {
			data, err := m.VerifiedReceipt(cmd.Context(), job)
			if err != nil {
				return named(m, err)
			}
			data = append(data, '\n')
			if out == "" {
				_, err := cmd.OutOrStdout().Write(data)
				return err
			}
			return atomicfile.Write(out, 0o644, data)
		}),
	}
	f.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "write the receipt to this file instead of stdout")
	return cmd
}
