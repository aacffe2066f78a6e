package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/plasm/receipt"
	"github.com/phaseboot/phaseboot/publisher/admin"
)

// adminFlags registers the flags of the admin page.
func adminFlags(cmd *cobra.Command, c *admin.Config) {
	f := cmd.Flags()
	f.StringVar(&c.Addr, "admin", "", "`address` of a page for operators with releases, dates, machines and boots, such as 127.0.0.1:9080 (:9080 is the same); any other needs a token or client certificates; empty for none")
	f.StringVar(&c.Token, "admin-token", "", "`file` with the token that readers of the page need")
	f.StringVar(&c.Cert, "admin-cert", "", "`file` with the certificate of the page in PEM, for HTTPS")
	f.StringVar(&c.Key, "admin-key", "", "`file` with the key of --admin-cert in PEM")
	f.StringVar(&c.ClientCA, "admin-client-ca", "", "`file` with CA certificates in PEM; readers of the page need a client certificate of one of them")
	f.StringArrayVar(&c.Mirrors, "admin-mirror", nil, "`URL` of a mirror whose head the page compares with the one of this publisher (repeatable)")
	f.StringVar(&c.Receipts, "admin-receipts", "", "`folder` with receipts of jobs that the page shows")
	c.ReadReceipt = readReceipt
}

// readReceipt checks a receipt and its signature for the page.
func readReceipt(data []byte) (admin.Receipt, error) {
	r, err := receipt.Parse(data)
	if err == nil {
		err = r.Verify(nil)
	}
	if err != nil {
		return admin.Receipt{}, err
	}
	run := r.Run
	out := admin.Receipt{
		Machine: run.Machine.Key, Job: run.Name, Reason: run.Reason, ExitCode: run.ExitCode, Started: run.Started,
		Took: time.Duration(run.Durations.Run) * time.Millisecond,
	}
	if run.Release != nil {
		out.Channel, out.Release = run.Release.Channel, run.Release.Version
	}
	return out, nil
}
