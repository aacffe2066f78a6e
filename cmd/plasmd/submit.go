package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
	"github.com/phaseboot/phaseboot/plasm/order"
)

type submitFlags struct {
	targetFlags
	specFlags
	role, cid    string
	name         string
	expires      time.Duration
	wait, detach bool
	receipts     string
}

func submitCommand() *cobra.Command {
	f := submitFlags{expires: time.Hour}
	cmd := &cobra.Command{
		Use:   "submit [JOB.wasm] [-- ARG …]",
		Short: "Run a job on this machine, on another one, or on a fleet",
		Long: `Submit sends a job to daemons: a file, a job of the release of the machine (--role), or a module that
the machine fetches from its peers (--cid). Without --machine, --machines, --all and --count it goes to
the daemon of this machine. Over the network it is an order, signed by a submitter whom the release of
the machine names (--key). Each machine gets an order of its own, which no other machine accepts.

Submit waits for the end, and verifies each receipt: that the machine has signed it, and that it is
about this job and the output that came. The output of one machine is printed as it comes, that of
several when all have ended, each line after the name of the machine. With --json the output is in the
result, in base64. Ctrl-C leaves the job running and says how to follow it. A machine that is busy or
whose queue is full is asked again for two minutes, and so is one that is lost while its job runs, or
whose daemon is started again.

The exit code is the greatest of all machines: the job's own, 1 if a limit ended it, and the code of
the error if a machine refused the job or did not answer. Nothing is submitted if a file cannot be read
or fewer machines are found than --count asks for.`,
		Example: `  plasmd submit bin/hello.wasm
  plasmd submit --role job/hello.wasm --machine /ip4/192.0.2.7/tcp/4002/p2p/12D3… --key keys/ci
  plasmd submit bin/wordcount.wasm --input book.txt --grant scratch=16M --all --root repo/root.json --key keys/ci --receipts out
  plasmd submit bin/primes.wasm --count 2 --key keys/ci --timeout 5m --detach -- 10000`,
		Args: submitArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.targetFlags.register(cmd)
	f.specFlags.register(cmd)
	flags := cmd.Flags()
	flags.IntVar(&f.count, "count", 0, "this many of the machines that are found, those with the fewest jobs")
	flags.StringVar(&f.role, "role", "", "run this job of the machine's release: job/NAME.wasm")
	flags.StringVar(&f.cid, "cid", "", "run the module with this CID, which the machine fetches from its peers")
	flags.StringVar(&f.name, "name", "", "name of the job, its first argument (default: that of the file)")
	cli.DurationVar(flags, &f.expires, "expires", 1, "how long the job may wait to start, 1m to 24h")
	flags.BoolVar(&f.wait, "wait", true, "wait until the job is done")
	flags.BoolVar(&f.detach, "detach", false, "print the IDs of the jobs and do not wait")
	flags.StringVar(&f.receipts, "receipts", "", "write each receipt to this folder, as ID.json")
	cmd.MarkFlagsMutuallyExclusive("role", "cid")
	cmd.MarkFlagsMutuallyExclusive("wait", "detach")
	cmd.MarkFlagsMutuallyExclusive("detach", "receipts")
	cmd.MarkFlagsMutuallyExclusive("count", "all")
	cmd.MarkFlagsMutuallyExclusive("count", "socket")
	return cmd
}

// submitArgs accepts one argument before "--", and any number after it.
func submitArgs(cmd *cobra.Command, args []string) error {
	before := args
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		before = args[:at]
	}
	if len(before) > 1 {
		return cli.Usagef("%.80q: only one JOB.wasm; write arguments of the job after --: %s %.80s -- %.80s; see '%[2]s --help'", before[1], cmd.CommandPath(), before[0], before[1])
	}
	return cli.Args(cobra.MaximumNArgs(1))(cmd, before)
}

// An attempt is the task on one machine.
type attempt struct {
	machine        client.Machine
	sent           string  // ID of the job of an order that was sent
	job            api.Job // as the machine accepted it, and at the end as it is done
	receipt        []byte
	path           string // of the receipt
	stdout, stderr io.Writer
	err            error
}

func (f *submitFlags) run(cmd *cobra.Command, args []string) error {
	ctx := cmd.Context()
	choice, opts, signing, err := f.check(ctx)
	if err != nil {
		return err
	}
	if signing == nil && f.remote() {
		return cli.Usagef("--key: missing; over the network a job is signed by a submitter whom the release of the machine names")
	}
	task, err := f.task(cmd, args)
	if err != nil {
		return err
	}
	if signing != nil {
		task.Signer = signing.Signer()
	}
	if f.receipts != "" {
		if info, err := os.Stat(f.receipts); err == nil && !info.IsDir() {
			return cli.Usagef("--receipts %s: not a folder; name one for the receipts", f.receipts)
		}
		if _, err := file.MkdirAll(f.receipts, 0o755); err != nil {
			return fmt.Errorf("receipts: %w", err)
		}
	}
	t, err := f.dial(ctx, choice, opts)
	if err != nil {
		return err
	}
	defer t.close()
	attempts := make([]*attempt, len(t.machines))
	for i, m := range t.machines {
		attempts[i] = &attempt{machine: m, err: m.Err}
	}
	if f.detach || !f.wait {
		inParallel(len(attempts), func(i int) { attempts[i].submit(ctx, task) })
		return f.report(cmd, t, attempts)
	}
	closeAll, err := outputs(cmd, attempts)
	if err != nil {
		return err
	}
	defer closeAll()
	f.follow(ctx, task, attempts)
	return f.report(cmd, t, attempts)
}

// task reads what the flags name.
func (f *submitFlags) task(cmd *cobra.Command, args []string) (client.Task, error) {
	t := client.Task{Role: f.role, CID: f.cid, Lifetime: f.expires, Patience: patience}
	var files []string
	files, jobArgs := args, []string(nil)
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		files, jobArgs = args[:at], args[at:]
	}
	named := f.role != "" || f.cid != ""
	var module []byte
	var err error
	switch {
	case len(files) > 0 && named:
		return t, cli.Usagef("%s and --role or --cid: name one job, not two", files[0])
	case len(files) == 0 && !named:
		return t, cli.Usagef("no job: name a JOB.wasm, or --role or --cid")
	case f.role != "" && (!strings.HasPrefix(f.role, "job/") || !strings.HasSuffix(f.role, ".wasm")):
		return t, cli.Usagef("--role %.140q: not the role of a job; write it as job/NAME.wasm", f.role)
	case f.role != "":
		t.Name = path.Base(f.role)
	case f.cid != "":
		c, err := cas.ParseCID(f.cid)
		if err != nil {
			return t, cli.Usagef("--cid %.100q: not the CID of a file; 'phase-sign cid JOB.wasm' prints it", f.cid)
		}
		t.Name, t.CID = c.String(), c.String()
	default:
		t.Name = filepath.Base(files[0])
		if module, err = cli.ReadInput(files[0], "job", maxModule); err != nil {
			return t, err
		}
	}
	t.Name = cmp.Or(f.name, t.Name)
	if f.expires > order.MaxAhead {
		return t, cli.Usagef("--expires %s: more than %s", f.expires, order.MaxAhead)
	}
	if t.Spec, t.Input, err = f.read(jobArgs); err != nil || module == nil {
		return t, err
	}
	job, err := plasm.NewJob(cmd.Context(), t.Name, module)
	if err != nil {
		return t, err
	}
	t.Module = &job
	return t, checkKind(files[0], module)
}

// follow submits the task to all machines and waits for their ends.
func (f *submitFlags) follow(ctx context.Context, task client.Task, attempts []*attempt) {
	progress := cli.NewProgress(ctx)
	defer progress.Close()
	slots := make(chan struct{}, atOnce) // of those that are submitting
	var tasks sync.WaitGroup
	for _, a := range attempts {
		tasks.Go(func() {
			show, end := func(string) {}, func() {}
			// The output of one machine is printed while it runs: no table is drawn over it.
			if len(attempts) > 1 || !progress.Draws() {
				show, end = progress.State(a.machine.Name, "submitting")
			}
			defer end()
			slots <- struct{}{}
			a.submit(ctx, task)
			<-slots
			a.finish(ctx, task, show)
			if a.err == nil && f.receipts != "" {
				a.path = filepath.Join(f.receipts, a.job.ID+".json")
				a.err = atomicfile.Write(a.path, 0o644, append(bytes.Clone(a.receipt), '\n'))
			}
			show(a.state())
		})
	}
	tasks.Wait()
}

// submit sends the task to the machine.
func (a *attempt) submit(ctx context.Context, t client.Task) {
	if a.err != nil {
		return
	}
	if err := client.CheckClock(a.machine, time.Now()); err != nil {
		note("%s: %v", a.machine.Name, err)
	}
	t.Sends = func(id string) { a.sent = id }
	t.Busy = func(m client.Machine, err error) {
		note("%s is busy: %v; it is asked again for up to %s", m.Name, err, t.Patience)
	}
	a.job, a.err = t.Submit(ctx, a.machine)
}

// finish waits for the end of the job, and shows its states.
func (a *attempt) finish(ctx context.Context, t client.Task, show func(string)) {
	if a.err != nil {
		return
	}
	id := a.job.ID
	polled, stop := context.WithCancel(ctx)
	var poll sync.WaitGroup
	poll.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for polled.Err() == nil {
			if j, err := a.machine.Client.Job(polled, id); err == nil {
				show(j.State)
			} else if !errors.Is(err, context.Canceled) {
				show("unreachable")
			}
			select {
			case <-tick.C:
			case <-polled.Done():
			}
		}
	})
	result, err := t.Finish(ctx, a.machine, id, a.stdout, a.stderr)
	stop()
	poll.Wait()
	if a.receipt, a.err = result.Receipt, err; result.Job.ID != "" {
		a.job = result.Job
	}
}

// state describes the attempt in a word or two.
func (a *attempt) state() string {
	switch interrupted := errors.Is(a.err, context.Canceled); {
	case a.job.ID == "" && interrupted:
		return "interrupted"
	case a.job.State != api.StateDone && interrupted:
		return "goes on"
	case a.job.ID == "" && errors.Is(a.err, cas.ErrUnreachable):
		return "no answer"
	case a.job.ID == "" && a.err != nil:
		return "refused"
	case a.job.State == api.StateDone && a.err != nil:
		return "not verified"
	case a.err != nil:
		return "lost"
	case a.job.State == api.StateDone:
		return ending(a.job)
	}
	return a.job.State
}

// failure returns the error of the attempt: that of the machine, or how the job ended.
func (a *attempt) failure() error {
	switch j := a.job; {
	case a.err != nil:
		return named(a.machine, a.err)
	case j.State != api.StateDone, j.Reason == plasm.ReasonExit && j.ExitCode == 0:
		return nil
	case j.Reason == plasm.ReasonExit:
		return named(a.machine, cli.Exitf(j.ExitCode, "job %q: exit code %d", j.Name, j.ExitCode))
	default:
		return named(a.machine, cli.Exitf(codeOf(j.Reason), "%s", failedText(j.Name, j.Reason, j.Detail)))
	}
}

// lost adds to the error of a machine that accepted the job and was lost how to follow the job: it may go on there.
func (a *attempt) lost(t targets, err error) error {
	if a.job.ID == "" || a.job.State == api.StateDone || !errors.Is(a.err, cas.ErrUnreachable) {
		return err
	}
	return refusal.New(err, "%s; the machine has accepted the job, follow it with: plasmd logs --follow%s %s", cli.Message(err), t.argument(a.machine), a.job.ID)
}

// codeOf returns the exit code for a job that a reason ended.
func codeOf(reason string) int64 {
	switch reason {
	case api.ReasonUnreachable:
		return cli.ExitNotFound
	case api.ReasonCorrupt:
		return cli.ExitCorrupt
	}
	return cli.ExitFailed
}

// report prints how the attempts ended, and returns the error of the verb.
func (f *submitFlags) report(cmd *cobra.Command, t targets, attempts []*attempt) error {
	errs := make([]error, len(attempts))
	for i, a := range attempts {
		errs[i] = a.lost(t, a.failure())
	}
	var err error
	switch {
	case cli.JSON(cmd):
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(results(attempts, errs))
	case f.detach || !f.wait:
		_, err = io.WriteString(cmd.OutOrStdout(), attemptTable(attempts, func(a *attempt) string { return a.job.ID }))
	case len(attempts) > 1:
		if err = printOutputs(cmd, attempts); err == nil {
			_, err = io.WriteString(cmd.ErrOrStderr(), attemptTable(attempts, func(a *attempt) string { return a.job.ID[:min(shortID, len(a.job.ID))] }))
		}
	}
	if err != nil {
		return err
	}
	if cmd.Context().Err() != nil {
		return interrupted(t, attempts)
	}
	return failures(errs)
}

// A result is an attempt in JSON.
type result struct {
	Address string          `json:"address"`
	Peer    string          `json:"peer,omitempty"`
	Job     *api.Job        `json:"job,omitempty"`
	Stdout  []byte          `json:"stdout,omitempty"`
	Stderr  []byte          `json:"stderr,omitempty"`
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Error   string          `json:"error,omitempty"`
	Code    int             `json:"exit_code"`
}

func results(attempts []*attempt, errs []error) map[string][]result {
	out := make([]result, len(attempts))
	for i, a := range attempts {
		r := result{Address: a.machine.Name, Peer: a.machine.Info.ID.String(), Receipt: a.receipt, Code: cli.Code(errs[i])}
		if a.job.ID != "" {
			r.Job = &a.job
		}
		if errs[i] != nil {
			r.Error = cli.Message(errs[i])
		}
		if b, ok := a.stdout.(*bytes.Buffer); ok {
			r.Stdout = b.Bytes()
		}
		if b, ok := a.stderr.(*bytes.Buffer); ok {
			r.Stderr = b.Bytes()
		}
		out[i] = r
	}
	return map[string][]result{"machines": out}
}

func attemptTable(attempts []*attempt, id func(*attempt) string) string {
	t := newTable("MACHINE", "JOB", "STATE", "RAN")
	for _, a := range attempts {
		t.row(a.machine.Name, dash(id(a)), a.state(), took(a.job, a.job.Ended))
	}
	return t.String()
}

// interrupted returns the error of an interrupted wait. It says how to follow a job that goes on, and how to
// ask for one that may have been accepted.
func interrupted(t targets, attempts []*attempt) error {
	running, sent := 0, 0
	var hint, ask string
	for _, a := range attempts {
		if a.job.ID == "" && a.sent != "" && errors.Is(a.err, context.Canceled) {
			if sent++; sent == 1 {
				ask = fmt.Sprintf("plasmd show%s %s", t.argument(a.machine), a.sent)
			}
		}
		if a.job.ID != "" && a.job.State != api.StateDone {
			if running++; running == 1 {
				hint = fmt.Sprintf("plasmd logs --follow%s %s", t.argument(a.machine), a.job.ID)
			}
		}
	}
	switch {
	case running == 0 && sent == 0:
		return context.Canceled
	case running == 0 && sent == 1:
		return fmt.Errorf("%w while the job was sent; ask whether it was accepted with: %s", context.Canceled, ask)
	case running == 0:
		return fmt.Errorf("%w while %d jobs were sent; ask whether the first was accepted with: %s", context.Canceled, sent, ask)
	case running == 1:
		return fmt.Errorf("%w; the job goes on, follow it with: %s", context.Canceled, hint)
	}
	return fmt.Errorf("%w; %d jobs go on, follow the first with: %s", context.Canceled, running, hint)
}
