package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// A plainVerb is a verb without arguments.
type plainVerb struct {
	usage string // what --help prints
	json  bool   // it takes --json
	run   func(ctx context.Context, args []string, out io.Writer) error
}

// plainVerbs are the verbs without arguments, by name.
var plainVerbs = map[string]plainVerb{
	"boot":    {usage: bootUsage, run: func(ctx context.Context, _ []string, _ io.Writer) error { return boot(ctx) }},
	"watch":   {usage: watchUsage, run: func(ctx context.Context, _ []string, _ io.Writer) error { return watch(ctx) }},
	"status":  {usage: statusUsage, run: func(_ context.Context, _ []string, out io.Writer) error { return status(out) }},
	"retry":   {usage: retryUsage, run: func(context.Context, []string, io.Writer) error { return retry() }},
	"version": {usage: versionUsage, json: true, run: func(_ context.Context, args []string, out io.Writer) error { return printVersion(out, args) }},
}

const bootUsage = `phase-boot boot does the work of a boot: network, search, check, fetch, jump. It is the
child of phase-boot as PID 1 of an initramfs, and refuses to run anywhere else; on a host,
'phase-boot fetch' does the same up to the files.

Usage:
  phase-boot boot

Examples:
  phase-boot fetch --root root.json --mode local --out release
`

const watchUsage = `phase-boot watch waits for the network card or the cable that a refused boot lacked, and
loads the drivers of devices that are plugged in. PID 1 of an initramfs starts it beside
the shells; it refuses to run anywhere else.

Usage:
  phase-boot watch

Examples:
  phase-boot retry    # in the shell: the next attempt at once, without a wait
`

const statusUsage = `phase-boot status shows what a boot that was refused tried, and why each attempt failed.
It is for the shell that the machine opens then.

Usage:
  phase-boot status

Examples:
  phase-boot status
`

const retryUsage = `phase-boot retry starts the next attempt of a boot that was refused. It is for the shell
that the machine opens then.

Usage:
  phase-boot retry

Examples:
  phase-boot retry
`

const versionUsage = `phase-boot version prints the version of this program.

Usage:
  phase-boot version [--json]

Examples:
  phase-boot version
  phase-boot version --json

Flags:
`

// command checks the arguments of a plain verb, of which it has none, and runs it. All is the
// whole command line.
func (v plainVerb) command(ctx context.Context, verb string, all, rest []string, out io.Writer) error {
	set := flag.NewFlagSet("phase-boot "+verb, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	if v.json {
		set.Bool("json", false, "print the result as one JSON object")
	}
	help, err := parse(set, rest, verb, v.usage, func(rest []string) error {
		if len(rest) > 0 {
			return fmt.Errorf("unexpected argument %.80q", rest[0])
		}
		return nil
	})
	if help || err != nil {
		return err
	}
	return v.run(ctx, all, out)
}

// status shows the person at the console of a machine whose boot was refused what was tried.
func status(out io.Writer) error {
	if !machine.Initramfs() {
		return cli.Usagef("status: for the shell that a machine opens when its boot was refused")
	}
	return machine.Status(out)
}

// retry asks PID 1 for the next attempt.
func retry() error {
	if !machine.Initramfs() {
		return cli.Usagef("retry: for the shell that a machine opens when its boot was refused")
	}
	return machine.RequestRetry()
}
