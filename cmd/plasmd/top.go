package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

func topCommand() *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show machines, their load and their jobs",
		Long: `Top shows a line for each machine: its release, its workers, and how many jobs run and wait; then the
jobs, as 'plasmd list' does. A terminal shows it again every second until Ctrl-C; elsewhere, and with
--json, it is printed once.`,
		Example: `  plasmd top
  plasmd top --all --root repo/root.json --key keys/ci
  plasmd top --all --json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.top(cmd) },
	}
	f.register(cmd)
	return cmd
}

// A loaded is a machine with its load.
type loaded struct {
	Address string `json:"address"`
	api.Status
}

// A topView is the result of top with --json.
type topView struct {
	Machines []loaded  `json:"machines"`
	Jobs     []listed  `json:"jobs"`
	Missing  []missing `json:"unreachable"`
}

func (f *targetFlags) top(cmd *cobra.Command) error {
	t, err := f.open(cmd.Context())
	if err != nil {
		return err
	}
	defer t.close()
	if width, height, ok := terminalSize(); ok && !cli.JSON(cmd) {
		return watch(cmd.Context(), func() error {
			view, errs := t.view(cmd.Context())
			if t.single() && errs[0] != nil {
				return errs[0]
			}
			if w, h, ok := terminalSize(); ok {
				width, height = w, h
			}
			return draw(cmd.OutOrStdout(), view.String()+missingText(view.Missing), width, height)
		})
	}
	view, errs := t.view(cmd.Context())
	if t.single() && errs[0] != nil {
		return errs[0]
	}
	if err := cli.Print(cmd, view, view.String()); err != nil {
		return err
	}
	return failures(errs)
}

// view asks all machines.
func (t targets) view(ctx context.Context) (topView, []error) {
	all := make([]loaded, len(t.machines))
	errs := t.each(ctx, func(i int, m client.Machine) (err error) {
		all[i].Address = m.Name
		all[i].Status, err = m.Client.Status(ctx)
		return err
	})
	v := topView{Machines: []loaded{}}
	for i, m := range all {
		if errs[i] == nil {
			v.Machines = append(v.Machines, m)
		}
	}
	jobs, later := t.jobs(ctx)
	for i, err := range later {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	v.Jobs, v.Missing = jobs, t.missing(errs)
	return v, errs
}

func (v topView) String() string {
	machines := newTable("MACHINE", "RELEASE", "RUNNING", "WAITING", "JOBS", "UP", "KEY")
	now := time.Now()
	for _, m := range v.Machines {
		release := "-"
		if r := m.Release; r != nil {
			release = fmt.Sprintf("%s %s", r.Channel, r.Version)
		}
		machines.row(m.Address, release, fmt.Sprintf("%d/%d", m.Running, m.Workers), fmt.Sprintf("%d/%d", m.Queued, m.QueueLimit),
			fmt.Sprint(m.Stored), age(m.Started, now), m.Machine[:shortID])
	}
	return machines.String() + "\n" + jobTable(v.Jobs, len(v.Machines) > 1, now)
}
