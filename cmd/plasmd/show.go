package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

func showCommand() *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show the state of a job",
		Long: `Show prints what a daemon knows about a job. The first digits of the ID are enough if the daemon
lists the job to you (see 'plasmd list'). With several machines, the first that has the job answers.`,
		Example: `  plasmd show 3f9a12c4
  plasmd show --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… 3f9a12c4…`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: f.complete,
		RunE: f.onJob(func(cmd *cobra.Command, m client.Machine, job api.Job) error {
			return cli.Print(cmd, listed{job, m.Name}, describeJob(job, m))
		}),
	}
	f.register(cmd)
	return cmd
}

// describeJob returns a job as text for a person.
func describeJob(j api.Job, m client.Machine) string {
	var b strings.Builder
	for _, line := range [][2]string{
		{"job", j.ID},
		{"name", j.Name},
		{"machine", fmt.Sprintf("%s (%s)", m.Name, j.Machine)},
		{"submitter", j.Submitter},
		{"module", strings.TrimSpace(j.Role + " " + j.Module)},
		{"state", j.State},
		{"accepted", date(j.Created)},
		{"started", date(j.Started)},
		{"ended", date(j.Ended)},
		{"end", strings.TrimPrefix(ending(j), "-")},
		{"detail", j.Detail},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, "%-10s %s\n", line[0], line[1])
		}
	}
	return b.String()
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// idGrammar matches an ID or its beginning.
var idGrammar = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// find returns the job with an ID, or the one with an ID that begins so, and its machine. The caller closes the
// targets.
func (f *targetFlags) find(ctx context.Context, id string) (targets, client.Machine, api.Job, error) {
	if !idGrammar.MatchString(id) {
		return targets{}, client.Machine{}, api.Job{}, cli.Usagef("job %.80q: not an ID; give its first digits, at least 4, as 'plasmd list' shows them", id)
	}
	t, err := f.open(ctx)
	if err != nil {
		return t, client.Machine{}, api.Job{}, err
	}
	found := make([]api.Job, len(t.machines))
	errs := t.each(ctx, func(i int, m client.Machine) (err error) {
		found[i], err = lookUp(ctx, m, id)
		return err
	})
	at := -1
	for i := range errs {
		if errs[i] == nil && at >= 0 && found[at].ID != found[i].ID {
			t.close()
			return t, client.Machine{}, api.Job{}, cli.Usagef("job %s: more than one begins with it; give more digits", id)
		}
		if errs[i] == nil && at < 0 {
			at = i
		}
	}
	if at >= 0 {
		return t, t.machines[at], found[at], nil
	}
	t.close()
	return t, client.Machine{}, api.Job{}, notFound(id, errs)
}

// onJob returns the function of a verb whose argument is the ID of a job.
func (f *targetFlags) onJob(do func(cmd *cobra.Command, m client.Machine, job api.Job) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		t, m, job, err := f.find(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		defer t.close()
		return do(cmd, m, job)
	}
}

// notFound returns the error for a job that no machine has. Machines that could not be asked come first: one of
// them may have it.
func notFound(id string, errs []error) error {
	var other []error
	for _, err := range errs {
		if !errors.Is(err, fs.ErrNotExist) {
			other = append(other, err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	if len(other) > 0 {
		return failures(other)
	}
	return refusal.New(fs.ErrNotExist, "job %s: on none of %d machines; look for it with 'plasmd list'", id, len(errs))
}

// lookUp returns the job of a machine with an ID, or the one with an ID that begins so.
func lookUp(ctx context.Context, m client.Machine, id string) (api.Job, error) {
	if client.IsID(id) {
		return m.Client.Job(ctx, id)
	}
	list, err := m.Client.List(ctx)
	if err != nil {
		return api.Job{}, err
	}
	var found []api.Job
	for _, j := range list {
		if strings.HasPrefix(j.ID, id) {
			found = append(found, j)
		}
	}
	switch len(found) {
	case 0:
		return api.Job{}, refusal.New(fs.ErrNotExist, "no job begins with %s; look for it with 'plasmd list', or give the whole ID", id)
	case 1:
		return found[0], nil
	}
	return api.Job{}, cli.Usagef("job %s: %d begin with it; give more digits", id, len(found))
}

// completeTime is how long a shell waits for completions.
const completeTime = time.Second

// complete offers the IDs of the jobs of this machine to a shell.
func (f *targetFlags) complete(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 || f.remote() {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	list, err := client.Unix(f.socket).List(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, j := range list {
		if strings.HasPrefix(j.ID, typed) {
			out = append(out, cobra.CompletionWithDesc(j.ID[:max(shortID, len(typed))], j.Name+" "+j.State))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
