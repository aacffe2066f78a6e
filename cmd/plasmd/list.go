package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

type listFlags struct {
	targetFlags
	watch bool
}

func listCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the jobs of machines, the newest first",
		Long: `List shows the jobs that daemons know: on the socket of this machine all of them, of another
machine those of the submitter whose key --key names, if it is a PEM file.

With --watch a terminal shows the table again every second until Ctrl-C; elsewhere a line is
printed whenever a job is new or changes.`,
		Example: `  plasmd list
  plasmd list --watch
  plasmd list --all --root repo/root.json --key keys/ci
  plasmd list --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… --key keys/ci --json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.watch, "watch", false, "show the list again when it changes")
	return cmd
}

// A listed is a job with the machine that has it.
type listed struct {
	api.Job
	Address string `json:"address"` // socket, or IP and port
}

// A missing is a machine that did not answer.
type missing struct {
	Address string `json:"address"`
	Error   string `json:"error"`
	Code    int    `json:"exit_code"`
}

// A listing is the result of list with --json.
type listing struct {
	Jobs    []listed  `json:"jobs"`
	Missing []missing `json:"unreachable"`
}

func (f *listFlags) run(cmd *cobra.Command) error {
	if f.watch && cli.JSON(cmd) {
		return cli.Usagef("--watch and --json exclude each other; give only one")
	}
	t, err := f.open(cmd.Context())
	if err != nil {
		return err
	}
	defer t.close()
	if f.watch {
		return f.watchJobs(cmd, t)
	}
	jobs, errs := t.jobs(cmd.Context())
	if t.single() && errs[0] != nil {
		return errs[0]
	}
	list := listing{jobs, t.missing(errs)}
	if err := cli.Print(cmd, list, jobTable(jobs, len(t.machines) > 1, time.Now())); err != nil {
		return err
	}
	return failures(errs)
}

// jobs returns the jobs of all machines, the newest first.
func (t targets) jobs(ctx context.Context) ([]listed, []error) {
	lists := make([][]api.Job, len(t.machines))
	errs := t.each(ctx, func(i int, m client.Machine) (err error) {
		lists[i], err = m.Client.List(ctx)
		return err
	})
	out := []listed{}
	for i, list := range lists {
		for _, j := range list {
			out = append(out, listed{j, t.machines[i].Name})
		}
	}
	slices.SortStableFunc(out, func(a, b listed) int { return b.Created.Compare(a.Created) })
	return out, errs
}

// missing returns the machines with an error.
func (t targets) missing(errs []error) []missing {
	out := []missing{}
	for i, err := range errs {
		if err != nil {
			out = append(out, missing{t.machines[i].Name, cli.Message(err), cli.Code(err)})
		}
	}
	return out
}

func jobTable(jobs []listed, machines bool, now time.Time) string {
	if len(jobs) == 0 {
		return "no jobs\n"
	}
	head := []string{"ID", "NAME", "STATE", "END", "SUBMITTER", "AGE", "RAN"}
	if machines {
		head = append(head, "MACHINE")
	}
	t := newTable(head...)
	for _, j := range jobs {
		cells := []string{j.ID[:shortID], j.Name, j.State, ending(j.Job), dash(j.Submitter), age(j.Created, now), took(j.Job, now)}
		if machines {
			cells = append(cells, j.Address)
		}
		t.row(cells...)
	}
	return t.String()
}

// watchJobs shows the jobs until ctx ends.
func (f *listFlags) watchJobs(cmd *cobra.Command, t targets) error {
	known := map[string]string{} // of each job what was printed
	return watch(cmd.Context(), func() error {
		jobs, errs := t.jobs(cmd.Context())
		if t.single() && errs[0] != nil {
			return errs[0]
		}
		if width, height, ok := terminalSize(); ok {
			return draw(cmd.OutOrStdout(), jobTable(jobs, len(t.machines) > 1, time.Now())+missingText(t.missing(errs)), width, height)
		}
		last := known
		known = map[string]string{}
		for _, j := range slices.Backward(jobs) {
			key, line := j.Address+j.ID, fmt.Sprintf("%s %s %s", j.Name, j.State, ending(j.Job))
			if known[key] = line; last[key] != line {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s\n", j.ID[:shortID], j.Address, line); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func missingText(list []missing) (text string) {
	for _, m := range list {
		text += "\n" + m.Error
	}
	return text
}

// watch calls show every second until it fails or ctx ends.
func watch(ctx context.Context, show func() error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := show(); err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
